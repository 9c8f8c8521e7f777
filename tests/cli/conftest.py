"""A tiny trained-format checkpoint and a way to run the command line as a user would."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.networks import SETTINGS, one_level

from cmexport.cli.main import main
from cmexport.networks.adm_unet import AdmUnet


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout)


def tiny_state(seed: int = 0, classes: int | None = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return AdmUnet(one_level(classes)).state_dict()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    torch.save(tiny_state(), path)
    return path


def run_main(*arguments: object, cwd: Path | None = None, **environment: str) -> Outcome:
    """The command line in this process: importing torch anew for each of 60 cases would take minutes."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        # pytest's workers pretend a terminal of 80 columns; users' pipes get 120.
        patch.delenv("COLUMNS", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main([str(a) for a in arguments])
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="session")
def cmexport() -> Callable[..., Outcome]:
    return run_main


@pytest.fixture(scope="session")
def tiny_artifact(
    tiny_checkpoint: Path, cmexport: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("artefacts")
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", out, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-onnx-fp32"
