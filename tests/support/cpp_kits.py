"""C++ kits are built with a real compiler, CMake and ONNX Runtime: headers of `make system`, Python's library."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

TEMPLATES = Path(__file__).resolve().parents[2] / "cmexport/kits/templates/cpp"
PROGRAMS = Path(__file__).resolve().parents[1] / "kits/cpp/programs"
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def headers() -> Path:
    """Where `make_onnxruntime_headers.sh` put them."""
    return Path(os.environ.get("CMEXPORT_ONNXRUNTIME_HEADERS", "no headers"))


def missing() -> str:
    """What is not here, in words; "" where kits can be built."""
    if lost := [tool for tool in ("g++", "cmake") if shutil.which(tool) is None]:
        return f"no {lost[0]}"
    return "" if (headers() / "onnxruntime_c_api.h").exists() else "no headers of ONNX Runtime: make system"


def libraries() -> Path:
    """The folder of ONNX Runtime's library in Python's package."""
    return Path(onnxruntime.__file__).parent / "capi"


def release(folder: Path) -> Path:
    """Lay out headers and library as a release of ONNX Runtime has them."""
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(headers().resolve())
    (library,) = libraries().glob("libonnxruntime.so.*.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder


def run(*command: object, folder: Path | None = None, code: int | None = 0, **environment: str) -> str:
    """Run a program; what it says, after the exit code was looked at (None: any)."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert code is None or done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def compiled(out: Path, sources: Sequence[Path], *flags: str, compiler: str = "g++") -> Path:
    """Compile sources of a kit, and of the tests, to a program, without CMake; warnings are errors."""
    includes = (f"-I{TEMPLATES / 'include'}", f"-I{TEMPLATES / 'src'}")
    run(compiler, *WARNINGS, *includes, *flags, *sources, "-o", out)
    return out


def configured(kit: Path, build: Path, root: Path, *options: str) -> Path:
    """Configure a kit with CMake, so that warnings are errors; nothing is built yet."""
    name = kit.name.removesuffix("-kit-cpp")
    settings = [f"-D{name}_warnings_are_errors=ON", *options]
    run("cmake", "-S", kit, "-B", build, *settings, ONNXRUNTIME_ROOT=str(root))
    return build


def make(build: Path, *targets: str) -> None:
    """Build targets, or all of them."""
    run("cmake", "--build", build, "--parallel", "2", *(["--target", *targets] if targets else []))
