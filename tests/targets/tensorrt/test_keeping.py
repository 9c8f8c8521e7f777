from __future__ import annotations

import onnx
import pytest
import torch
from support.networks import model_around

from cmexport.errors import UsageError
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.onnxfile.emulation import EmulatedHalfRunner
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.lower import check, lower


@pytest.fixture(scope="module")
def hot():
    """A norm undoes what a convolution does in excess: PyTorch's pictures are good, half precision overflows."""
    torch.manual_seed(0)
    config = AdmUnetConfig(
        image_size=8,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_downsampling=(),
        num_classes=None,
        num_head_channels=32,
    )
    network = AdmUnet(config).eval().requires_grad_(False)
    for name in ("weight", "bias"):
        network.state_dict()[f"input_blocks.1.0.in_layers.2.{name}"].mul_(3e5)
    model = model_around(network, 8, None)
    return model, apply_rewrites(capture(resolve(model)), REWRITES)


def _picture(model, folder):
    noise = {"noise": torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()}
    with TorchRunner(resolve(model)) as run:
        expected = run(noise)["image"]
    with EmulatedHalfRunner(folder / "model.onnx") as run:
        return expected, run(noise)["image"]


def _lower(graph, folder, **options):
    return lower(graph, TensorRtOptions(**options), folder, lambda _: None)


def test_auto_keeps_what_overflows_and_what_reads_it(hot, tmp_path, no_tensorrt, psnr):
    model, graph = hot
    plan = _lower(graph, tmp_path, precision="fp16", keep_fp32=("auto",)).precision_plan
    kept = plan["kept_float32"]
    assert kept
    assert "overflow" in plan["kept_float32_reason"]
    nodes = {n.output[0]: n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {nodes[name] for name in kept} == {"Conv", "GroupNormalization"}
    assert psnr(*_picture(model, tmp_path)) > 60


def test_without_it_the_same_network_overflows(hot, tmp_path, no_tensorrt):
    model, graph = hot
    # Weights beyond 65504 are refused; these are not that large, their sums are.
    assert "kept_float32" not in _lower(graph, tmp_path, precision="fp16").precision_plan
    expected, found = _picture(model, tmp_path)
    assert not (abs(found - expected) < 0.1).all()


def test_named_operators_are_kept_and_unknown_ones_refused(captured, tmp_path, no_tensorrt):
    plan = _lower(captured(), tmp_path, precision="fp16", keep_fp32=("conv2d_1",)).precision_plan
    assert plan["kept_float32"] == ["conv2d_1"]
    assert plan["float32_operators"]["Conv"] == 1
    with pytest.raises(UsageError, match="no operator of the ONNX file has a result of this name; similar: conv2d_"):
        _lower(captured(), tmp_path, precision="fp16", keep_fp32=("conv2d_99",))


def test_a_healthy_network_is_left_alone(shared_export, captured, tmp_path, no_tensorrt):
    plan = _lower(captured(), tmp_path, precision="fp16", keep_fp32=("auto",)).precision_plan
    assert "kept_float32" not in plan
    assert (tmp_path / "model.onnx").read_bytes() == shared_export("fp16").path.read_bytes()


@pytest.mark.parametrize(
    ("precision", "keep", "said"),
    [("fp32", ("auto",), "everything is float32"), ("bf16", ("auto",), "float32's range")],
)
def test_where_there_is_nothing_to_keep(precision, keep, said):
    with pytest.raises(UsageError, match=said):
        check(TensorRtOptions(precision=precision, keep_fp32=keep))
