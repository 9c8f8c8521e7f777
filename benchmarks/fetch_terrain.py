"""Brings the terrain model of adaptive-terrain-diffusion into `build/terrain`: a consistency model that others trained.

    python benchmarks/fetch_terrain.py [--wheel adaptive_terrain_diffusion-0.4.2-py3-none-any.whl]

Youwei Yu's package (MIT) holds it as an ONNX file. Only that file is taken out of the wheel, whose SHA-256 must be the
recorded one; its code is neither installed nor run: it would replace ONNX Runtime by the build for GPUs. Nothing is
done when the file already lies there. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "adaptive-terrain-diffusion", "0.4.2"
WHEEL_SHA256 = "dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d"
NAME = "terrain_consistency_unet_difficulty100.onnx"
FILE_SHA256 = "95be54b4a39d58320e187a7ec533351c957f16a00be58773c86074828ee67887"
FOLDER = Path(__file__).resolve().parents[1] / "build" / "terrain"
MODEL = FOLDER / NAME


class FetchError(Exception):
    """The package can't be had, or isn't the one that was recorded."""


def fetch(wheel: Path | None = None, target: Path = MODEL) -> Path:
    """Put the model at `target`, unless it is there.

    Raises:
        FetchError: no wheel, another one than recorded, or one without the model.
    """
    if target.is_file() and _sha256(target) == FILE_SHA256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheel-") as work:
        package = wheel or _download(Path(work))
        if _sha256(package) != WHEEL_SHA256:
            raise FetchError(f"{package.name} is not the recorded {PACKAGE} {VERSION}: its SHA-256 differs")
        beside = Path(work) / NAME
        inside = f"terrain_diffusion/weights/{NAME}"
        with zipfile.ZipFile(package) as archive, archive.open(inside) as member, beside.open("wb") as out:
            shutil.copyfileobj(member, out)
        if _sha256(beside) != FILE_SHA256:
            raise FetchError(f"{NAME} in {package.name} is not the recorded file: its SHA-256 differs")
        beside.rename(target)
    return target


def _download(folder: Path) -> Path:
    """Fetch the wheel through pip, which knows this machine's registry and proxy."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found := sorted(folder.glob("*.whl")):
        return found[0]
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise FetchError(f"pip download {PACKAGE}=={VERSION} failed: {reason}\ngive the file instead: --wheel FILE")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FetchError(f"{path}: can't be read: {error.strerror}") from error


def main() -> int:
    """Fetch, unless it is there; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description=f"Fetch the model of {PACKAGE} {VERSION} into build/terrain.")
    parser.add_argument("--wheel", type=Path, help="the package as a file, instead of downloading it")
    arguments = parser.parse_args()
    try:
        found = fetch(arguments.wheel)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{found}: {PACKAGE} {VERSION}, {found.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
