"""Artefacts that kits are made of, exported once a session, whichever worker needs one first."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from cmexport.cli.main import main

# What is exported, by the names of the fixtures below.
_COMMANDS = {
    "demo": "onnx --demo cifar10 --seeds 8",
    # Two steps in place of eight: eight need 5 s more.
    "editing": "onnx --demo cifar10 --task generate,inpaint --steps 2 --seeds 8",
    "worded": "onnx --demo emoji --fp16 --steps 2 --guidance 5 --seeds 8",
    "coreml": "coreml --demo cifar10 --fp16 --seeds 8",
}


def run(arguments: str, *paths: object) -> tuple[int, str]:
    """The command line in this process: its exit code, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([*arguments.split(), *map(str, paths)])
    return code, said.getvalue()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """The folder of an artefact of `_COMMANDS`."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "kit-artifacts"
    shared.mkdir(exist_ok=True)

    def find(name: str) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                code, said = run(_COMMANDS[name], "-o", shared / f"{name}.partial")
                assert code == 0, said
                (shared / f"{name}.partial").rename(shared / name)
        (folder,) = (shared / name).iterdir()
        return folder

    return find


@pytest.fixture(scope="session")
def demo(artifact: Callable[[str], Path]) -> Path:
    """Ten classes, one step, 32x32, float32."""
    return artifact("demo")


@pytest.fixture(scope="session")
def editing(artifact: Callable[[str], Path]) -> Path:
    """The same with a second run, `inpaint`, in two steps."""
    return artifact("editing")


@pytest.fixture(scope="session")
def worded(artifact: Callable[[str], Path]) -> Path:
    """Prompts as tokens, two steps, 128x128, half precision."""
    return artifact("worded")


@pytest.fixture(scope="session")
def coreml(artifact: Callable[[str], Path]) -> Path:
    """The first for Core ML, in half precision."""
    return artifact("coreml")
