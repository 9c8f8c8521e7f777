"""Engines built by TensorRT for RTX, on any machine; skipped where it is not installed."""

from __future__ import annotations

import signal

import onnx
import pytest

from cmexport.errors import BackendError, CheckpointError, UsageError
from cmexport.targets.tensorrt.engine import EngineRequest, build_engine, engine_request
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.layers import layers_path, read_layers
from cmexport.targets.tensorrt.lower import lower


def _quiet(_):
    pass


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_every_precision_builds_for_every_gpu_that_has_it(rtx, captured, tmp_path, precision):
    lowered = lower(captured(), TensorRtOptions(precision=precision, trt="rtx"), tmp_path, _quiet)
    assert lowered.files == ("model.onnx", "model.engine", "model.layers.json")
    (facts,) = lowered.session["engines"]
    least = {"fp8": 89}.get(precision, 80)
    assert facts["compute_capabilities"] == [f"{sm // 10}.{sm % 10}" for sm in rtx.sms if sm >= least]
    assert facts["bytes"] == (tmp_path / "model.engine").stat().st_size
    found = read_layers(layers_path(tmp_path / "model.engine"))
    assert found.by_precision() == facts["layers_by_precision"]
    assert precision in found.by_precision()
    fused = {operator for layer in found.layers for operator in layer.operators}
    convolutions = {n.name for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "Conv"}
    assert convolutions <= fused
    if precision != "bf16":  # it averages bfloat16 pictures in float32, and that is listed
        assert facts["float32_fallbacks"] == []


def test_what_is_kept_in_float32_is_no_fallback(rtx, captured, tmp_path):
    options = TensorRtOptions(precision="fp16", trt="rtx", keep_fp32=("conv2d_1", "group_norm_1"))
    (facts,) = lower(captured(), options, tmp_path, _quiet).session["engines"]
    assert facts["layers_by_precision"].get("fp32", 0) > 0
    assert not [line for line in facts["float32_fallbacks"] if "conv2d_1" in line]


def test_progress_tells_stages_and_steps(rtx, shared_export, tmp_path):
    said = []
    build_engine(rtx, shared_export("fp16").path, EngineRequest("fp16", (86,)), tmp_path / "m.engine", said.append)
    assert any(line.startswith("parse for TensorRT for RTX") for line in said)
    assert any("building engine" in line for line in said)
    assert any(line.endswith("/" + line.rsplit("/", 1)[-1]) and "/" in line for line in said)


class _Interrupting:
    """The first stages pass; then Ctrl-C comes, once."""

    def __init__(self):
        self.came = False

    def __call__(self, line):
        if "building engine" in line and not self.came:
            self.came = True
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Python's own handler, also where a parent started the tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_the_builder_and_leaves_nothing(rtx, shared_export, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            rtx, shared_export("fp16").path, EngineRequest("fp16", (86,)), tmp_path / "m.engine", _Interrupting()
        )
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("content", [b"junk" * 100, b"", b"\x08\x0a"])
def test_what_is_not_onnx_is_refused_in_a_sentence(rtx, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, BackendError)) as caught:
        build_engine(rtx, path, EngineRequest(), tmp_path / "m.engine", _quiet)
    assert "m.onnx" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "m.engine").exists()


def test_operators_it_does_not_know_are_named(rtx, shared_export, tmp_path):
    model = shared_export().proto
    model.graph.node[3].op_type, model.graph.node[3].domain = "Unheard", "of"
    model.opset_import.add(domain="of", version=1)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(CheckpointError, match=r"odd.onnx: TensorRT for RTX .* can't parse"):
        build_engine(rtx, tmp_path / "odd.onnx", EngineRequest(), tmp_path / "m.engine", _quiet)


def test_types_that_a_gpu_does_not_have_are_refused(rtx, shared_export, tmp_path):
    with pytest.raises(UsageError, match=r"--sm 75: this GPU has no bf16; it needs 80 or later"):
        engine_request(rtx, TensorRtOptions(precision="bf16", sm=(75, 86)))
    with pytest.raises(UsageError, match=r"--sm 86: this GPU has no fp8"):
        engine_request(rtx, TensorRtOptions(precision="fp8", sm=(86, 89)))
    # And the builder's own word, for a request that was not checked.
    with pytest.raises(BackendError, match=r"can't build this network: .*sm75.*b16"):
        build_engine(rtx, shared_export("bf16").path, EngineRequest("bf16", (75,)), tmp_path / "m.engine", _quiet)


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"sm": (87,)}, BackendError, "--sm 87: TensorRT for RTX"),
        ({"compat": ("hardware",)}, UsageError, "run on every GPU in --sm as they are"),
        ({"compat": ("forever",)}, UsageError, "--compat forever: known are version, hardware"),
    ],
)
def test_options_it_does_not_have_are_refused(rtx, fields, kind, said):
    with pytest.raises(kind, match=said):
        engine_request(rtx, TensorRtOptions(**fields))


def test_a_timing_cache_is_for_the_others(rtx, tmp_path):
    with pytest.raises(UsageError, match="times nothing while it builds"):
        engine_request(rtx, TensorRtOptions(timing_cache=tmp_path / "cache"))


def test_version_compatible_engines_are_marked(rtx, shared_export, tmp_path):
    request = engine_request(rtx, TensorRtOptions(compat=("version",), sm=(86,)))
    facts = build_engine(rtx, shared_export().path, request, tmp_path / "m.engine", _quiet).facts
    assert facts["compatibility"] == ["version"]
    assert facts["builder_flags"] == ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
