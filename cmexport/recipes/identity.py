"""What a step depends on, as one SHA-256: its arguments, the content of its inputs, the code and the libraries."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from cmexport import __version__
from cmexport.doctor.backends import installed_version
from cmexport.errors import CheckpointError
from cmexport.files import require_file, sha256_of
from cmexport.recipes.steps import Step
from cmexport.targets.registry import INFOS

# Packages whose code can't change what a step writes; all others count for every step.
_APPS = ("kits", "live")
_WITHOUT: Mapping[str, tuple[str, ...]] = {
    "export": ("recipes", "report", "bench", "doctor", "layer_study", "tuning", *_APPS),
    "plan": ("recipes", "report", "bench", "doctor", "tuning", *_APPS),
    "verify": ("recipes", "report", "bench", "doctor", "layer_study", *_APPS),
    "bench": ("recipes", "report", "doctor", "layer_study", "tuning", "live"),
    "report": ("recipes", "doctor", *_APPS),
}

_BASE = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "onnx-ir",
    "safetensors",
    "diffusers",
)
_BENCH = ("openvino", "onnxruntime-qnn", "zeus", "psutil", "asyncssh")


def step_key(step: Step, inputs: Mapping[str, str], gate_db: float | None) -> str:
    """The key of a step.

    Args:
        step: its arguments, kind and place.
        inputs: SHA-256 of everything it reads, by a name that says what it is.
        gate_db: the recipe's own gate, which decides what the artefact is called.
    """
    facts = {
        "cmexport": __version__,
        "code": code_hash(_WITHOUT[step.kind]),
        "python": platform.python_version(),
        "libraries": {name: installed_version((name,)) for name in _libraries(step)},
        # Figures of one machine are none of another.
        "machine": [platform.machine(), platform.node() if step.alone else ""],
        "arguments": step.arguments,
        "place": [step.place, step.output],
        "gate_db": gate_db,
        "inputs": dict(inputs),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _libraries(step: Step) -> Sequence[str]:
    if step.kind == "report":
        return ("jinja2",)
    # Steps without a target of their own (verify, bench) may run the files of any.
    infos = [INFOS[step.target]] if step.target else INFOS.values() if step.kind != "plan" else ()
    own = [name for info in infos for library in info.libraries for name in library.distributions]
    return (*_BASE, *own, *(_BENCH if step.kind == "bench" else ()))


@cache
def code_hash(without: tuple[str, ...]) -> str:
    """Hash of the package's own sources but for some packages, and of the runners that are sent to devices.

    Always of the files, installed or not: 300 small files take 10 ms, and an editable checkout changes under one
    version.
    """
    package = Path(__file__).resolve().parent.parent
    runners = [package.parent / "bench_device"] if "bench" not in without else []
    digest = hashlib.sha256()
    for root in (package, *runners):
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if name.parts[0] in without or path.suffix not in (".py", ".js", ".html", ".j2", ".css"):
                continue
            if "vendor" in name.parts or "node_modules" in name.parts:
                continue
            digest.update(f"{name.as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def tree_hash(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their names.

    Raises:
        CheckpointError: it can't be read.
    """
    require_file(path, folder=True)
    try:
        if not path.is_dir():
            return file_hash(path)
        lines = (f"{name}\0{digest}\n" for name, digest in hashes_below(path).items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error


def hashes_below(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of one that nobody touched since it was last asked for, from memory."""
    found = path.stat()
    return _hash_of(path, found.st_size, found.st_mtime_ns, found.st_ino)


@cache
def _hash_of(path: Path, *_state: int) -> str:
    # Checkpoints and models are gigabytes, and several steps ask for each.
    return sha256_of(path)
