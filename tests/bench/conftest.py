"""A tiny artefact, the records' building blocks, and the runner of this checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.networks import one_level

from cmexport.bench.devices.base import BenchJob, MeasureOptions
from cmexport.bench.jobs import prepare_job
from cmexport.bench.on_device import device_files
from cmexport.checkpoints import load_checkpoint
from cmexport.exporting import ExportOptions, export_model
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.progress import Progress
from cmexport.targets.info import LoweringOptions


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    torch.save(AdmUnet(one_level()).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def export_tiny(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def export(precision: str, **request: object) -> Path:
        model = load_checkpoint(tiny_checkpoint, {"image_size": "8", "num_head_channels": "32"})
        # Not verified: every record here has a parity of its own.
        options = ExportOptions(lowering=LoweringOptions(precision=precision), verify=None)
        return export_model(model, SampleRequest(**request), options, tmp_path_factory.mktemp("artefact")).folder

    return export


@pytest.fixture(scope="session")
def fp32(export_tiny: Callable[..., Path]) -> Path:
    return export_tiny("fp32")


@pytest.fixture(scope="session")
def fp16(export_tiny: Callable[..., Path]) -> Path:
    return export_tiny("fp16")


@pytest.fixture(scope="session")
def quick() -> MeasureOptions:
    return MeasureOptions(min_runs=6, min_seconds=0.0, warmup=1, threads=1, rounds=2, run="test")


@pytest.fixture(scope="session")
def jobs(fp32: Path, fp16: Path, quick: MeasureOptions) -> list[BenchJob]:
    return [prepare_job(folder, quick, Progress()) for folder in (fp32, fp16)]


@pytest.fixture(scope="session")
def runner() -> Path:
    return device_files("python") / "runner.py"
