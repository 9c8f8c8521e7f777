"""One complete manifest, with a value in every field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from cmexport.artifact.border_record import SignatureRecord
from cmexport.artifact.manifest import (
    CheckpointRecord,
    EvaluationRecord,
    GraphRecord,
    Manifest,
    RewriteRecord,
    SamplingRecord,
    SessionRecord,
    SettingRecord,
)
from cmexport.artifact.parity_record import ParityRecord
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.ladder import ParityReport, Rung, climb
from cmexport.signature import Signature, known


class Tanh:
    """A runner that needs no backend."""

    def __init__(self, error: float) -> None:
        self.error = error

    def __enter__(self) -> Tanh:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return {"image": np.tanh(arrays["noise"]) + np.float32(self.error)}


def make_report(*errors: float) -> ParityReport:
    inputs = draw_inputs(Signature((known.noise((1, 3, 4, 4)),), known.finished((1, 3, 4, 4))), 8, seed=3)
    rungs = [Rung(f"rung {i}", lambda error=error: Tanh(error)) for i, error in enumerate(errors)]
    return climb(Rung("PyTorch", lambda: Tanh(0.0)), rungs, inputs, 60.0, exact=Rung("f64", lambda: Tanh(1e-7)))


@pytest.fixture(scope="session")
def report_with():
    return make_report


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest(
        schema_version=2,
        cmexport_version="0.1.0",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        name="cars",
        target="onnx",
        precision="fp16",
        task="generate",
        files=(),
        checkpoint=CheckpointRecord(
            file="cars.pt",
            path="somewhere/cars.pt",
            format="openai",
            sha256="0" * 64,
            bytes=123,
            architecture={"name": "adm_unet", "channel_mult": (1, 2, 3), "dropout": 0.1},
            parameters=45,
            settings=(
                SettingRecord(name="sigma_max", value=80.0, origin="default", ambiguous=False),
                SettingRecord(name="attention", value=(16, 8), origin="shapes", ambiguous=True),
                SettingRecord(name="classes", value=None, origin="shapes", ambiguous=False),
            ),
        ),
        sampling=SamplingRecord(
            sigmas=(80.0, 1.3824),
            evaluations=(
                EvaluationRecord(
                    sigma=80.0, c_skip=3.9e-5, c_out=0.49999, c_in=0.0125, c_noise=1095.5067, noise_std=80.0
                ),
                EvaluationRecord(sigma=1.3824, c_skip=0.1, c_out=0.4, c_in=0.1 + 0.2, c_noise=80.9, noise_std=1.3824),
            ),
            sigma_min=0.002,
            sigma_max=80.0,
            sigma_data=0.5,
            rho=7.0,
            levels=40,
            precond="cm",
            c_noise="250ln",
            renoise="cm",
            clamp=True,
        ),
        label=None,
        classes=10,
        graphs=(
            GraphRecord(
                name="generate",
                files=("model.onnx",),
                signature=SignatureRecord.of(
                    Signature(
                        (known.noise((1, 3, 32, 32)), known.label(1, 10)),
                        known.finished((1, 3, 32, 32)),
                    )
                ),
            ),
        ),
        runs={"generate": ("generate",)},
        numerics={"default": "float16", "kept_float32": ("norm", "combine")},
        rewrites=(
            RewriteRecord(
                name="fold_time",
                applied=True,
                parameters_removed=10,
                nodes_removed=2,
                max_relative_error=1e-7,
                note="exact up to rounding",
            ),
            RewriteRecord(
                name="merge",
                applied=False,
                parameters_removed=0,
                nodes_removed=0,
                max_relative_error=None,
                note="nothing to merge",
            ),
        ),
        parity=ParityRecord.from_report(make_report(1e-5, 1e-4)),
        tools={"torch": "2.13", "onnx": "1.23"},
        session=SessionRecord(ep="CPUExecutionProvider", options={"intra_op_num_threads": 2}),
    )
