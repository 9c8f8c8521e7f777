"""Exact rescaling before half precision, on a decoder whose mid block peaks as Stable Diffusion XL's does."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from support.latent_pipelines import decoder
from support.networks import random_weights
from torch import nn

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import exact_picture
from cmexport.graph.ranges import LARGEST, SAFE, overflowing, peaks
from cmexport.graph.rewrites import HALF_REWRITES, REWRITES, fit_half
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module, trace
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.signature import Normal, Output, Signature
from cmexport.signature.border import Input
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower

LATENT = (1, 4, 8, 8)


def captured(module: nn.Module, shape=LATENT) -> CapturedGraph:
    inputs = (Input("noise", shape, law=Normal()),)
    given = {"noise": torch.zeros(shape)}
    with torch.no_grad():
        output = Output("image", tuple(module(**given).shape))
    return CapturedGraph(trace(module.eval().requires_grad_(False), given), Signature(inputs, output))


class Decoder(nn.Module):
    """AutoencoderKL's way to pictures; its residual stream is multiplied, which all of its norms take away again."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.vae: diffusers.AutoencoderKL = decoder("kl")
        part = self.vae.decoder
        writing = [part.conv_in, part.mid_block.attentions[0].to_out[0], part.up_blocks[1].resnets[0].conv2]
        writing += [
            r.conv2 for r in (*part.mid_block.resnets, *part.up_blocks[0].resnets, *part.up_blocks[1].resnets[1:])
        ]
        for layer in writing:
            layer.weight.data *= factor
            layer.bias.data *= factor

    def forward(self, noise):
        return self.vae.decode(noise, return_dict=False)[0].clamp(-1.0, 1.0)


@pytest.fixture(scope="module")
def large():
    """With a stream beyond float16, after the general rewrites."""
    made = apply_rewrites(captured(Decoder(2.0**15)), REWRITES)
    module = to_module(made.program)
    assert max(peaks(module, made.signature).values()) > LARGEST
    return made


def exactly(graph, seed=3):
    return exact_picture(to_module(graph.program), graph.signature.examples(seed)).numpy()


def test_the_pictures_stay_what_they_are_and_nothing_is_too_large(large):
    fitted = apply_rewrites(large, HALF_REWRITES)
    (report,) = fitted.rewrites[len(large.rewrites) :]
    assert report.applied >= 1
    assert "peaks at" in report.note
    assert fit_half.LEFT not in report.note
    np.testing.assert_allclose(exactly(fitted), exactly(large), rtol=0, atol=1e-12)
    assert max(peaks(to_module(fitted.program), fitted.signature).values()) <= SAFE
    assert overflowing(large)
    assert not overflowing(fitted)
    # No product is left where linear layers and norms take the factor.
    assert report.nodes_removed == 0


def test_half_precision_draws_what_float64_draws(large, tmp_path):
    """In ONNX Runtime; without the rewrite the file gives NaN."""
    found = {}
    for name, rewrites in (("with", "all"), ("without", "pack_attention")):
        files = lower(large, OnnxOptions(precision="fp16", rewrites=rewrites), tmp_path, lambda _: None, name).files
        with OnnxRuntimeRunner(tmp_path / files[0]) as run:
            found[name] = run({k: v.numpy() for k, v in large.signature.examples(3).items()})["image"]
    expected = exactly(large)
    assert expected.std() > 0.05
    error = np.abs(found["with"] - expected).max()
    assert error < 0.01, error
    assert np.isnan(found["without"]).any()


def test_ordinary_networks_are_left_alone():
    made = apply_rewrites(captured(Decoder(1.0)), REWRITES)
    fitted = apply_rewrites(made, HALF_REWRITES)
    (report,) = fitted.rewrites[len(made.rewrites) :]
    assert (report.applied, report.note) == (0, "")


class DeepDecoder(nn.Module):
    """AutoencoderKL's decoder with its real depth and norms, 32 or 64 channels wide."""

    def __init__(self, change) -> None:
        super().__init__()
        made = diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=32,
            latent_channels=4,
        )
        self.vae: diffusers.AutoencoderKL = random_weights(made, 3)
        part = self.vae.decoder
        part.conv_out.weight.data *= 0.4
        part.conv_out.bias.data.zero_()
        with torch.no_grad():
            change(part)

    def forward(self, noise):
        return self.vae.decode(noise, return_dict=False)[0].clamp(-1.0, 1.0)


def blocks(part):
    return [*part.mid_block.resnets, *(r for block in part.up_blocks for r in block.resnets)]


def two_large_channels(part, factor=2.0**17):
    """Two channels of the stream peak at 10^6, the others at 10, and what reads them takes it away again."""
    passing = [block.upsamplers[0].conv for block in part.up_blocks if block.upsamplers]
    passing += [r.conv_shortcut for r in blocks(part) if r.conv_shortcut is not None]
    for layer in passing:
        layer.weight[:, :2] /= factor
    for layer in (part.conv_in, part.mid_block.attentions[0].to_out[0], *(r.conv2 for r in blocks(part)), *passing):
        layer.weight[:2] *= factor
        layer.bias[:2] *= factor


def large_inputs(part):
    """The stream is large since what its layers read is; their own weights are ordinary."""
    for block in blocks(part):
        block.norm2.weight *= 2.0**9
        block.norm2.bias *= 2.0**9
        block.conv2.weight *= 2.0**5
        block.conv2.bias *= 2.0**14


def large_keys(part):
    """Logits of 10^5 that are nearly the same for all keys."""
    part.mid_block.attentions[0].to_k.bias.copy_(torch.randn(64, generator=torch.Generator().manual_seed(5)) * 1e5)


def decibels(found, expected):
    return 10 * np.log10(4 / np.square(found - expected).mean())


@pytest.mark.parametrize(
    ("change", "said"), [(two_large_channels, "of its 32 channels"), (large_inputs, "scaled"), (large_keys, "logits")]
)
def test_a_decoder_of_real_depth_keeps_its_pictures_in_half_precision(change, said, tmp_path):
    made = apply_rewrites(captured(DeepDecoder(change)), REWRITES)
    assert max(peaks(to_module(made.program), made.signature).values()) > LARGEST
    expected = exactly(made)
    lowered = lower(made, OnnxOptions(precision="fp16"), tmp_path, lambda _: None)
    (fitted,) = [r for r in lowered.rewrites if r.name == "fit_half"]
    assert said in fitted.note
    assert fit_half.LEFT not in fitted.note
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        found = run({k: v.numpy() for k, v in made.signature.examples(3).items()})["image"]
    assert expected.std() > 0.05
    # 73.9, 54.2 and 74.0 dB; with one factor for all channels and no balance of weights 17.1 and 25.2.
    assert decibels(found, expected) > 50


def test_one_factor_where_groups_differ_little():
    """Then eps is exact, too."""
    made = apply_rewrites(captured(Decoder(2.0**15)), REWRITES)
    assert "channels" not in apply_rewrites(made, HALF_REWRITES).rewrites[-1].note


def test_core_ml_executes_them_in_half_precision(tmp_path):
    """Sums in half precision, too, which is the strictest its executor knows."""
    from cmexport.targets.coreml.info import CoreMlOptions
    from cmexport.targets.coreml.lower import lower as lower_to_core_ml
    from cmexport.targets.coreml.runner import ExecutorRunner

    made = apply_rewrites(captured(DeepDecoder(two_large_channels), (1, 4, 4, 4)), REWRITES)
    lower_to_core_ml(made, CoreMlOptions(precision="fp16"), tmp_path, lambda _: None)
    with ExecutorRunner(tmp_path / "model.mlpackage", mode="ftz") as run:
        found = run({k: v.numpy() for k, v in made.signature.examples(3).items()})["image"]
    assert decibels(found, exactly(made)) > 40


class Steps(nn.Module):
    """One block four times, its stream larger with every step."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Conv2d(4, 32, 1), nn.GroupNorm(8, 32), nn.Conv2d(32, 4, 1)
        self.into.weight.data *= 1000.0

    def forward(self, noise):
        for _ in range(4):
            noise = noise + 3.0 * self.out(torch.relu(self.norm(self.into(noise))))
        return noise


def test_steps_keep_sharing_their_weights():
    torch.manual_seed(0)
    made = apply_rewrites(captured(Steps()), REWRITES)
    found = peaks(to_module(made.program), made.signature)
    streams = [p for n, p in found.items() if tuple(n.meta["val"].shape)[1:2] == (32,) and p > 1000]
    assert min(streams) <= SAFE < max(streams), "the last steps need another factor than the first"
    fitted = apply_rewrites(made, HALF_REWRITES)
    assert fitted.rewrites[-1].applied == 1
    assert fitted.rewrites[-1].parameters_removed == 0
    np.testing.assert_allclose(exactly(fitted), exactly(made), rtol=0, atol=1e-12)


class SharpAttention(nn.Module):
    """Logits of 10^5 that no bias makes: nothing but float32 holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(4, 24, 1), nn.Conv2d(8, 3, 1)
        self.qkv.weight.data[:16] *= 300.0

    def forward(self, noise):
        n, _, h, w = noise.shape
        q, k, v = (p.flatten(2).transpose(1, 2)[:, None] for p in self.qkv(noise).chunk(3, dim=1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed[:, 0].transpose(1, 2).reshape(n, 8, h, w))


@pytest.mark.parametrize("rewrites", ["all", "fit_half"])
def test_attention_whose_logits_are_too_large_stays_in_float32(rewrites, tmp_path):
    torch.manual_seed(0)
    made = captured(SharpAttention())
    for name, chosen in (("with", rewrites), ("without", "pack_attention")):
        lowered = lower(made, OnnxOptions(precision="fp16", rewrites=chosen), tmp_path, lambda _: None, name)
        kept = set(lowered.precision_plan["kept_float32"])
        assert bool(kept & {"Attention", "Softmax", "MatMul"}) == (name == "with")


class Gated(nn.Module):
    """A product of two activations, which no factor can be moved through."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)
        self.into.weight.data *= 300.0
        self.out.weight.data *= 1e-4

    def forward(self, noise):
        made = self.into(noise)
        return self.out(made * torch.relu(made)).clamp(-1.0, 1.0)


def test_what_cannot_be_scaled_stays_in_float32(tmp_path):
    torch.manual_seed(0)
    made = apply_rewrites(captured(Gated()), REWRITES)
    fitted = apply_rewrites(made, HALF_REWRITES)
    assert fit_half.LEFT in fitted.rewrites[-1].note
    assert "mul" in overflowing(fitted)
    lowered = lower(made, OnnxOptions(precision="fp16"), tmp_path, lambda _: None)
    assert {"Mul", "Conv"} <= set(lowered.precision_plan["kept_float32"])
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        found = run({k: v.numpy() for k, v in made.signature.examples(3).items()})["image"]
    np.testing.assert_allclose(found, exactly(made), rtol=0, atol=0.02)


class Skipping(nn.Module):
    """A UNet's way back: an early result of ordinary size beside a late one at 10^8, a norm over both, a way around."""

    def __init__(self, groups: int = 8) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.inner.weight.data *= 2.0**28
        self.norm, self.norm_late = nn.GroupNorm(groups, 16), nn.GroupNorm(4, 8)
        self.inside, self.around = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, noise):
        early = self.first(noise)
        both = torch.cat([self.inner(early), early], 1)
        late = self.around(both) + self.inside(nn.functional.silu(self.norm(both)))
        return self.last(nn.functional.silu(self.norm_late(late)))


def in_half(graph, tmp_path):
    lower(graph, OnnxOptions(precision="fp16"), tmp_path, lambda _: None)
    with OnnxRuntimeRunner(tmp_path / "model.onnx", "all", threads=1) as session:
        return session({name: x.numpy() for name, x in graph.examples(3).items()})["image"]


def test_parts_of_a_concatenation_have_factors_of_their_own(tmp_path):
    torch.manual_seed(4)
    graph = captured(Skipping())
    fitted = apply_rewrites(graph, HALF_REWRITES)
    assert "parts of 1 concatenations are joined each at its own scale" in fitted.rewrites[-1].note
    np.testing.assert_allclose(exactly(fitted), exactly(graph), rtol=0, atol=1e-7)
    assert max(peaks(to_module(fitted.program), fitted.signature).values()) <= SAFE
    # One factor for both parts left 12 dB: of the early one nothing was there any more.
    assert decibels(in_half(graph, tmp_path), exactly(graph)) > 60


def test_a_norm_across_both_parts_keeps_one_factor():
    torch.manual_seed(4)
    fitted = apply_rewrites(captured(Skipping(groups=1)), HALF_REWRITES)
    assert "concatenations" not in fitted.rewrites[-1].note


def test_the_smaller_part_is_scaled_too_where_one_eps_would_be_too_much_for_the_larger():
    torch.manual_seed(4)
    network = Skipping()
    network.inner.weight.data *= 2.0**-4
    network.inner.bias.data += 2.0**28  # little variance for its size
    graph = captured(network)
    fitted = apply_rewrites(graph, HALF_REWRITES)
    np.testing.assert_allclose(exactly(fitted), exactly(graph), rtol=0, atol=1e-6)
    module = to_module(fitted.program)
    seen = peaks(module, fitted.signature)
    (cat,) = (n for n in module.graph.nodes if n.target is torch.ops.aten.cat.default)
    late, early = (seen[part] for part in cat.args[0])
    assert 1 < late <= 64
    assert 2.0**-6 < early < 1


class LargeScales(nn.Module):
    """A norm whose scales are large, an activation, a pool, a convolution, and a norm that takes all of it away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.norm_after = nn.GroupNorm(4, 8), nn.GroupNorm(2, 4)
        self.norm.weight.data *= 1e6

    def forward(self, noise):
        large = nn.functional.silu(self.norm(self.first(noise)))
        return self.norm_after(self.second(nn.functional.avg_pool2d(large, 2)))


def test_what_an_activation_gives_is_scaled_behind_it(tmp_path):
    torch.manual_seed(5)
    graph = captured(LargeScales())
    fitted = apply_rewrites(graph, HALF_REWRITES)
    report = fitted.rewrites[-1]
    assert fit_half.LEFT in report.note  # the norm and the activation, in float32
    np.testing.assert_allclose(exactly(fitted), exactly(graph), rtol=0, atol=1e-9)
    module = to_module(fitted.program)
    large = {node.target for node, peak in peaks(module, fitted.signature).items() if peak > SAFE}
    assert large == {torch.ops.aten.group_norm.default, torch.ops.aten.silu.default}
    assert decibels(in_half(graph, tmp_path), exactly(graph)) > 55


def test_no_product_stays_behind_an_activation_that_something_else_reads():
    torch.manual_seed(5)
    network = LargeScales()
    network.norm_after = nn.Softmax(1)
    fitted = apply_rewrites(captured(network), HALF_REWRITES)
    products = [n for n in to_module(fitted.program).graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert all(n.args[1] != 1.0 for n in products)
