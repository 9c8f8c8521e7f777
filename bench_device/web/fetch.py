"""Brings onnxruntime-web into `vendor/`, so that the page works without the internet.

    python bench_device/web/fetch.py [--tarball onnxruntime-web-1.30.0.tgz]

Takes the npm package at the version in `vendor.json` and only the files listed there; the package's integrity and each
file's SHA-256 must be the recorded ones. Nothing is done when they already lie there. Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENDOR = HERE / "vendor"


class FetchError(Exception):
    """The package can't be had, or isn't the one that was recorded."""


def complete(folder: Path, files: dict[str, str]) -> bool:
    """Whether every file lies in `folder` with its SHA-256."""
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in files.items())


def fetch(pin: dict[str, object], tarball: Path | None, target: Path) -> None:
    """Put the pinned files into `target`, all or none.

    Raises:
        FetchError: no tarball, another one than recorded, or one without a listed file.
    """
    files = pin["files"]
    assert isinstance(files, dict)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".vendor-") as work:
        package = tarball or _download(str(pin["package"]), str(pin["version"]), Path(work))
        _check_integrity(package, str(pin["integrity"]))
        beside = Path(work) / "files"
        beside.mkdir()
        _unpack(package, files, beside)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)


def _unpack(package: Path, files: dict[str, str], folder: Path) -> None:
    with tarfile.open(package, "r:gz") as archive:
        for name, digest in files.items():
            try:
                member = archive.extractfile(f"package/dist/{name}")
            except KeyError:
                member = None
            if member is None:
                raise FetchError(f"{package.name} has no dist/{name}; vendor.json doesn't fit its version")
            with member, (folder / name).open("wb") as out:
                shutil.copyfileobj(member, out)
            if _sha256(folder / name) != digest:
                raise FetchError(f"dist/{name} is not the recorded file: its SHA-256 differs from vendor.json")


def _download(package: str, version: str, folder: Path) -> Path:
    """Fetch the package's tarball, through npm where it is installed: it knows this machine's registry and proxy."""
    if npm := shutil.which("npm"):
        done = subprocess.run(
            [npm, "pack", f"{package}@{version}", "--pack-destination", str(folder), "--silent"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found := sorted(folder.glob("*.tgz")):
            return found[0]
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FetchError(f"npm pack {package}@{version} failed: {reason}\ngive the file instead: --tarball FILE")
    raise FetchError(f"npm is not installed: install it, or give the package {package} {version} as --tarball FILE")


def _check_integrity(package: Path, integrity: str) -> None:
    """In npm's own form: `sha512-` and the digest in base64."""
    algorithm, _, expected = integrity.partition("-")
    try:
        with package.open("rb") as file:
            found = base64.b64encode(hashlib.file_digest(file, algorithm).digest()).decode()
    except OSError as error:
        raise FetchError(f"{package}: can't be read: {error.strerror}") from error
    if found != expected:
        raise FetchError(f"{package.name} is not the recorded package: its integrity differs from vendor.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetch, unless all is there; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Fetch the pinned onnxruntime-web into vendor/.")
    parser.add_argument("--tarball", type=Path, help="the npm package as a file, instead of downloading it")
    arguments = parser.parse_args()
    pin = json.loads((HERE / "vendor.json").read_text(encoding="utf-8"))
    what = f"{pin['package']} {pin['version']}"
    if complete(VENDOR, pin["files"]):
        print(f"{VENDOR}: {what} is there")
        return 0
    try:
        fetch(pin, arguments.tarball, VENDOR)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{VENDOR}: {what}, {sum(f.stat().st_size for f in VENDOR.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
