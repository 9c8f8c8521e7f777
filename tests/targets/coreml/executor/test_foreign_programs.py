"""Whole programs from networks that are not ours, through the converter's ordinary pipeline, and compressed ones."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from cmexport.targets.coreml.executor import Executor, describe_placement, read_program


class ResNetBlock(nn.Module):
    """As torchvision's: convolutions with BatchNorm, a strided shortcut, max pooling, a linear head."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.first, self.first_norm = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.second, self.second_norm = nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.short, self.short_norm = nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        y = F.relu(y + self.short_norm(self.short(x)))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class MobileNetBlock(nn.Module):
    """As torchvision's V3: expansion, depthwise convolution, squeeze and excitation, hard swish."""

    def __init__(self):
        super().__init__()
        self.expand, self.depth = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 5, 1, 2, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.project, self.norms = nn.Conv2d(24, 8, 1), nn.ModuleList(nn.BatchNorm2d(n) for n in (24, 24, 8))

    def forward(self, x):
        y = F.hardswish(self.norms[0](self.expand(x)))
        y = F.relu6(self.norms[1](self.depth(y)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return x + self.norms[2](self.project(y * F.hardsigmoid(gate)))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)
        for parameter in self.blocks.parameters():
            # The encoder copies one layer, weights and all: equal weights are stored once, and hide mix-ups.
            nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.15)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.blocks(x)[:, 0])


class DiffusionNetwork(nn.Module):
    """The usual conditional network at its smallest: group norms, cross attention, up- and downsampling, timesteps."""

    def __init__(self):
        super().__init__()
        self.network = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type=None,
            up_block_types=("UpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=8,
        )

    def forward(self, x, time, text):
        return self.network(x, time, text, return_dict=False)[0]


def example(name):
    generator = torch.Generator().manual_seed(7)
    shapes = {"resnet": (2, 3, 32, 32), "mobilenet": (1, 8, 9, 9), "vit": (2, 3, 16, 16), "unet": (1, 4, 8, 8)}
    x = torch.randn(shapes[name], generator=generator)
    if name != "unet":
        return (x,)
    return x, torch.tensor([421], dtype=torch.int32), torch.randn(1, 5, 16, generator=generator)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(3)
    made = {
        "resnet": ResNetBlock(),
        "mobilenet": MobileNetBlock(),
        "vit": VisionTransformer(),
        "unet": DiffusionNetwork(),
    }
    for network in made.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
        network.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def convert(ct, networks):
    """`convert(name, how, half)` gives the converter's model, unsaved."""

    def run(name, how="export", half=False, ios=18):
        network, inputs = networks[name], example(name)
        options = {}
        if how == "trace":
            # The encoder's fused kernel can't be converted.
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                captured = torch.jit.trace(network, inputs)
            finally:
                torch.backends.mha.set_fastpath_enabled(True)
            kinds = [np.int32 if t.dtype == torch.int32 else np.float32 for t in inputs]
            options["inputs"] = [ct.TensorType(shape=t.shape, dtype=k) for t, k in zip(inputs, kinds, strict=True)]
        else:
            captured = torch.export.export(network, inputs).run_decompositions({})
        return ct.convert(
            captured,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            compute_units=ct.ComputeUnit.CPU_ONLY,
            skip_model_load=True,
            **options,
        )

    return run


def executed(model, folder, name, mode="ideal"):
    """Save, read, run on the example; the single output as float32."""
    path = folder / f"{name}.mlpackage"
    model.save(str(path))
    program = read_program(path)
    declared = program.functions["main"].inputs
    arrays = {i.name: t.numpy().astype(i.type.dtype) for i, t in zip(declared, example(name), strict=True)}
    (result,) = Executor(program, mode=mode)(arrays).values()
    return program, torch.from_numpy(result).float()


@pytest.mark.parametrize(
    ("name", "how", "ios"),
    [
        ("resnet", "export", 15),
        ("resnet", "trace", 18),
        ("mobilenet", "export", 17),
        ("mobilenet", "trace", 16),
        ("vit", "export", 18),
        ("vit", "trace", 16),
        ("unet", "export", 17),
        ("unet", "trace", 18),
    ],
)
def test_float32_programs_compute_what_torch_does(convert, networks, tmp_path, name, how, ios):
    _, result = executed(convert(name, how, ios=ios), tmp_path, name)
    torch.testing.assert_close(result, networks[name](*example(name)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["resnet", "vit", "unet"])
def test_float16_programs_differ_by_their_rounding(convert, networks, tmp_path, name):
    model, oracle = convert(name, half=True), networks[name](*example(name))
    errors, results = {}, {}
    for mode in ("ideal", "fp16", "ftz"):
        program, results[mode] = executed(model, tmp_path, name, mode)
        errors[mode] = float((results[mode] - oracle).abs().max() / oracle.abs().max())
    assert 1e-5 < errors["ideal"] < 5e-3
    assert errors["fp16"] < 3e-2
    assert errors["ftz"] < 3e-2
    assert not torch.equal(results["fp16"], results["ideal"])
    assert "float16" in describe_placement(program).precisions


def linear(ct, **options):
    config = ct.optimize.coreml.OpLinearQuantizerConfig(weight_threshold=64, **options)
    return ct.optimize.coreml.linear_quantize_weights, config


def palette(ct, **options):
    config = ct.optimize.coreml.OpPalettizerConfig(weight_threshold=64, mode="uniform", **options)
    return ct.optimize.coreml.palettize_weights, config


def pruned(ct, **options):
    config = ct.optimize.coreml.OpMagnitudePrunerConfig(weight_threshold=64, **options)
    return ct.optimize.coreml.prune_weights, config


COMPRESSIONS = {
    "int8": (linear, {"dtype": "int8"}),
    "uint8": (linear, {"dtype": "uint8", "mode": "linear"}),
    "int4 blocks": (linear, {"dtype": "int4", "granularity": "per_block", "block_size": 8}),
    "8 bits": (palette, {"nbits": 8}),
    "6 bits": (palette, {"nbits": 6}),
    "4 bits": (palette, {"nbits": 4, "granularity": "per_grouped_channel", "group_size": 4}),
    "2 bits": (palette, {"nbits": 2, "granularity": "per_grouped_channel", "group_size": 8, "channel_axis": 1}),
    "pruned": (pruned, {"target_sparsity": 0.6}),
}


def levels(weight, name):
    """The largest error a compression may leave in a weight (C, …), by the definition of each scheme."""
    span = float(weight.amax() - weight.amin())
    steps = {"8 bits": 255, "6 bits": 63, "4 bits": 15, "2 bits": 3}
    largest = float(weight.abs().max())
    if name in steps:
        return span / steps[name] * 0.51 + 1e-6
    if name == "pruned":
        return float(weight.abs().flatten().kthvalue(math.ceil(weight.numel() * 0.6)).values) + 1e-6
    return {"int8": largest / 127 / 2, "uint8": span / 255, "int4 blocks": largest / 7 / 2}[name] * 1.02 + 1e-6


@pytest.fixture(scope="module")
def plain(convert):
    """The transformer in float32, by iOS version."""
    return functools.cache(lambda ios: convert("vit", ios=ios))


@pytest.mark.parametrize(
    ("name", "ios"),
    [(name, 18) for name in COMPRESSIONS] + [(name, 16) for name in ("int8", "uint8", "8 bits", "6 bits", "pruned")],
)
def test_compressed_weights(ct, plain, networks, tmp_path, name, ios):
    """The executor's weights lie within each scheme's step of the originals, and torch with them gives its result."""
    make, options = COMPRESSIONS[name]
    compress, config = make(ct, **options)
    model = compress(plain(ios), ct.optimize.coreml.OptimizationConfig(global_config=config))
    program, result = executed(model, tmp_path, "vit")
    executor = Executor(program)
    weights = [
        torch.from_numpy(executor.constant(op.outputs[0].name))
        for op in program.functions["main"].ops
        if op.type.startswith("constexpr_") and op.outputs[0].type.dtype == "float32"
    ]
    assert len(weights) >= 8
    # The same network with the weights the executor sees, matched by shape and closeness.
    network = VisionTransformer().eval().requires_grad_(False)
    network.load_state_dict(networks["vit"].state_dict())
    replaced = 0
    for parameter in network.parameters():
        near = [w for w in weights if w.numel() == parameter.numel()]
        near = [
            w.reshape(parameter.shape) for w in near if w.shape == parameter.shape or 1 in (*w.shape, *parameter.shape)
        ]
        distances = [float((w - parameter).abs().mean()) for w in near]
        limit = levels(parameter, name)
        if distances and min(distances) <= limit:
            chosen = near[int(np.argmin(distances))]
            if float((chosen - parameter).abs().max()) <= limit:
                parameter.copy_(chosen)
                replaced += 1
    assert replaced == len(weights)
    torch.testing.assert_close(result, network(*example("vit")), atol=1e-5, rtol=0)
    assert not torch.allclose(result, networks["vit"](*example("vit")), atol=1e-6)
    assert describe_placement(program).compression
