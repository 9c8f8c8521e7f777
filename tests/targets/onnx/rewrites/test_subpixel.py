"""subpixel: enlargement and convolution as four convolutions, exact to the border, where that pays and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmexport.graph.fxtools import Editor, aten, is_op
from cmexport.graph.tracing import to_module, trace
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower
from cmexport.targets.onnx.providers import PROFILES
from cmexport.targets.onnx.rewrites import chosen_rewrites, subpixel


class Larger(nn.Module):
    """Nearest enlargement, then a convolution, as every UNet and decoder has it."""

    def __init__(self, read=3, written=5, bias=True, factor=2.0, **conv) -> None:
        super().__init__()
        self.larger = nn.Upsample(scale_factor=factor)
        self.conv = nn.Conv2d(read, written, **{"kernel_size": 3, "padding": 1, "bias": bias, **conv})

    def forward(self, noise):
        return self.conv(self.larger(noise))


def rewritten(network, x):
    module = to_module(trace(network.eval().requires_grad_(False), {"noise": x}))
    editor = Editor(module)
    changes = subpixel.REWRITE.apply(editor)
    editor.clean()
    return module, changes.applied


@pytest.fixture
def everywhere(monkeypatch):
    """Small networks, too."""
    monkeypatch.setattr(subpixel, "_CHANNELS", 1)
    monkeypatch.setattr(subpixel, "_PIXELS", 1)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 3, st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_pixel_is_what_it_was(sizes, bias, seed):
    batch, read, written, height, width = sizes
    torch.manual_seed(seed)
    network, x = Larger(read, written, bias), torch.randn(batch, read, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subpixel, "_CHANNELS", 1)
        patch.setattr(subpixel, "_PIXELS", 1)
        module, applied = rewritten(network, x)
    assert applied == 1
    assert not any(is_op(n, aten.upsample_nearest2d.vec) for n in module.graph.nodes)
    expected = network.double()(x.double())
    torch.testing.assert_close(module.double()(noise=x.double()), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    "other",
    [{"factor": 3.0}, {"kernel_size": 5, "padding": 2}, {"padding": 0}, {"stride": 2}, {"groups": 3, "written": 6}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_layers_are_left_alone(other):
    assert rewritten(Larger(**other), torch.randn(1, 3, 4, 4))[1] == 0


class Twice(Larger):
    """What is enlarged is read by others, too."""

    def forward(self, noise):
        larger = self.larger(noise)
        return self.conv(larger)[:, :3] + larger


@pytest.mark.usefixtures("everywhere")
def test_an_enlarged_picture_that_others_read_is_left_alone():
    assert rewritten(Twice(), torch.randn(1, 3, 4, 4))[1] == 0


@pytest.mark.parametrize(("channels", "side", "applied"), [(256, 32, 1), (128, 32, 0), (256, 16, 0)])
def test_narrow_layers_and_small_pictures_are_left_alone(channels, side, applied):
    """They would take longer, or more weights than they are worth."""
    assert rewritten(Larger(channels, channels), torch.randn(1, channels, side, side))[1] == applied


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_file_draws_the_same(toy, precision, tmp_path):
    torch.manual_seed(0)
    network, x = Larger(), torch.randn(1, 3, 4, 6)
    lowered = lower(toy(network, x), OnnxOptions(precision=precision), tmp_path, lambda _: None)
    assert [r.applied for r in lowered.rewrites if r.name == "subpixel"] == [1]
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        (found,) = run({"noise": x.numpy()}).values()
    accuracy = 1e-5 if precision == "fp32" else 5e-3
    torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=0, atol=accuracy)


@pytest.mark.parametrize(("ep", "precision"), [("cpu", "int8"), ("cpu", "w8"), ("cuda", "fp16"), ("web", "fp32")])
def test_only_where_it_was_measured(ep, precision):
    assert subpixel.REWRITE not in chosen_rewrites(PROFILES[ep], "all", precision)
    assert subpixel.REWRITE in chosen_rewrites(PROFILES["cpu"], "all", "fp16")
