"""8-bit layers in packages: codes on both sides of every product, and the pictures of the simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.eight_bits import quick_calibration

from cmexport.errors import UsageError
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.quantize.centred.insertion import with_centred_layers
from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.lower import lower
from cmexport.targets.coreml.package import package_of

FLAT = {"channel_mult": (1,)}
CONSTEXPR = {17: "constexpr_affine_dequantize", 18: "constexpr_blockwise_shift_scale"}


@pytest.fixture(autouse=True, scope="module")
def _quick_calibration():
    with quick_calibration():
        yield


@pytest.mark.parametrize("ios", [17, 18])
def test_packages_compute_what_the_operators_do(graph, codes, noise, tmp_path, ios):
    changed = with_centred_layers(graph, codes)
    with torch.no_grad():
        expected = to_module(changed.program)(noise=noise).numpy()
    lowered = lower(changed, CoreMlOptions(ios=ios), tmp_path, lambda _: None)
    program = read_program(package_of(tmp_path, lowered.files))
    kinds = [op.type for op in program.functions["main"].ops]
    assert kinds.count("quantize") == kinds.count(CONSTEXPR[ios]) == len(codes)
    (found,) = Executor(program)({"noise": noise.numpy()}).values()
    # Sums in another order turn a code over here and there.
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1e-3 * np.abs(expected).max()


def test_every_layer_reads_codes_and_stores_codes(export, ops_of, psnr):
    made = export(SampleRequest(label=1), CoreMlOptions(precision="int8"), **FLAT)
    inputs, layers = made.inputs(), len(made.lowered.precision_plan["int8"])
    assert made.counts["quantize"] == made.counts["dequantize"] == made.counts[CONSTEXPR[18]] == layers > 2
    kinds = {kind: types for kind, _, types in ops_of(made.package)}
    from coremltools.proto import MIL_pb2

    assert kinds["quantize"] == [MIL_pb2.INT8]
    assert kinds["dequantize"] == kinds[CONSTEXPR[18]] == kinds["conv"] == [MIL_pb2.FLOAT16]
    assert psnr(made.reference(inputs), made.run(inputs)) >= 36.0


def test_int8_needs_ios_17(rewritten, tmp_path):
    _, captured = rewritten(SampleRequest(label=1), **FLAT)
    with pytest.raises(UsageError, match="iOS 17"):
        lower(captured, CoreMlOptions(precision="int8", ios=16), tmp_path, lambda _: None)
