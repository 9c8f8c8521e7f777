"""Half precision of saved packages: which operation breaks it, and packages that keep it in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.parity.inputs import draw_inputs
from cmexport.targets.coreml.blame import blame_half, plain_name
from cmexport.targets.coreml.executor import read_program
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.lower import lower
from cmexport.targets.coreml.runner import ExecutorRunner
from cmexport.targets.coreml.target import CoreMlTarget

FLAT = {"channel_mult": (1,)}
FP16 = CoreMlOptions(precision="fp16")
# Nothing looks for numbers that are too large, so that nothing is kept in float32.
PLAIN = CoreMlOptions(precision="fp16", rewrites="none")
AUTO = CoreMlOptions(precision="fp16", keep_fp32=("auto",))


class Hot(nn.Module):
    """Three convolutions; the second is scaled up by 2^19 and its result down again, so that only it overflows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)
        with torch.no_grad():
            self.second.weight *= 2.0**19
            self.second.bias *= 2.0**19
        # Larger weights would overflow by themselves, and coremltools would leave their operation in float32.
        assert self.second.weight.abs().max() < 65504

    def forward(self, noise):
        hot = torch.relu(self.second(torch.relu(self.first(noise))))
        return torch.tanh(self.last(hot * 2.0**-9 * 2.0**-10))


@pytest.fixture(scope="module")
def graph(toy):
    """The captured graph of `Hot`, its inputs and PyTorch's pictures."""
    module = Hot()
    captured = toy(module, noise=torch.zeros(1, 3, 8, 8))
    inputs = draw_inputs(captured.signature, 4)
    with torch.no_grad():
        pictures = [module(torch.from_numpy(given["noise"])).numpy() for given in inputs]
    return captured, inputs, np.concatenate(pictures)


@pytest.fixture(scope="module")
def lowered(graph, tmp_path_factory):
    """A function: `Hot` lowered with these options, the folder and what it said; once for equal options."""
    made = {}

    def run(options):
        if options not in made:
            folder, said = tmp_path_factory.mktemp("hot"), []
            made[options] = folder, lower(graph[0], options, folder, said.append), said
        return made[options]

    return run


def drawn(folder, inputs, mode="ideal"):
    with ExecutorRunner(folder / "model.mlpackage", mode=mode) as run:
        return np.concatenate([run(given)["image"] for given in inputs])


@pytest.mark.parametrize("mode", ["fp16", "ftz"])
def test_the_convolution_that_overflows_is_named(graph, lowered, mode):
    _, inputs, _ = graph
    folder, _, _ = lowered(PLAIN)
    found = blame_half(folder / "model.mlpackage", inputs, mode=mode)
    convolutions = [r for r in found.operations if r.type == "conv"]
    assert [r.overflows_itself for r in convolutions] == [False, True, False]
    assert convolutions[1].largest > 65504
    assert found.first_over_budget == convolutions[1]
    # relu passes the large numbers on, and the first multiplication reads them.
    relu = next(r for r in found.operations if r.type == "relu" and r.beyond)
    reads = next(r for r in found.operations if relu.name in r.operands)
    assert reads.type == "mul"
    assert not reads.beyond
    assert found.worth_keeping == (convolutions[1].name, relu.name, reads.name)
    assert not found.healthy
    assert found.difference.non_finite > 0
    assert found.pictures == 4


@pytest.mark.parametrize("options", [AUTO, FP16], ids=["asked", "unasked"])
def test_plain_half_precision_fails_and_auto_does_not(graph, lowered, psnr, options):
    _, inputs, pictures = graph
    assert not np.isfinite(drawn(lowered(PLAIN)[0], inputs)).all()
    folder, model, said = lowered(options)
    for mode in ("ideal", "fp16", "ftz"):
        assert psnr(pictures, drawn(folder, inputs, mode)) >= 60.0
    plan = model.precision_plan
    assert len(plan["kept_float32"]) == 3
    assert plan["kept_float32_reason"].startswith(f"{plan['kept_float32'][0]}, {plan['kept_float32'][1]} overflow")
    assert "keep 3 operations in float32" in said
    assert blame_half(folder / "model.mlpackage", inputs).healthy


def test_auto_keeps_only_those_and_nothing_else(lowered):
    folder, model, _ = lowered(AUTO)
    program = read_program(folder / "model.mlpackage")
    wide = {
        op.name
        for op in program.functions["main"].ops
        if not op.is_constant and op.type != "cast" and op.outputs[0].type.dtype == "float32"
    }
    assert wide == set(model.precision_plan["kept_float32"])


def test_names_may_be_given_and_are_what_auto_found(lowered):
    """Named as the package names them or as before the conversion to half precision: the same bytes as `auto`."""
    folder, model, _ = lowered(AUTO)
    first, *rest = model.precision_plan["kept_float32"]
    named, again, _ = lowered(CoreMlOptions(precision="fp16", keep_fp32=(*rest, f"{first}_cast_fp16")))
    assert again.precision_plan["kept_float32"] == model.precision_plan["kept_float32"]
    assert again.precision_plan["kept_float32_reason"] == "named by --keep-fp32"
    for file in model.files:
        assert (named / file).read_bytes() == (folder / file).read_bytes(), file


def test_a_name_that_no_operation_has(graph, tmp_path):
    options = CoreMlOptions(precision="fp16", keep_fp32=("conv2d_7",))
    with pytest.raises(UsageError, match=r"--keep-fp32 conv2d_7: no operation has this name; similar: .*conv2d_[123]"):
        lower(graph[0], options, tmp_path, lambda _: None)


def test_compressed_weights_stay_compressed_in_float32(graph, lowered, psnr):
    _, inputs, pictures = graph
    folder, model, _ = lowered(CoreMlOptions(precision="w8", keep_fp32=("auto",)))
    assert len(model.precision_plan["kept_float32"]) == 3
    assert psnr(pictures, drawn(folder, inputs, "fp16")) >= 45.0
    expanded = [
        op.outputs[0].type.dtype
        for op in read_program(folder / "model.mlpackage").functions["main"].ops
        if op.type.startswith("constexpr")
    ]
    # The first and last convolution have fewer than 512 weights.
    assert expanded == ["float32"]


def test_a_clean_network_keeps_nothing_and_changes_nothing(export):
    made, automatic = (export(SampleRequest(label=3), options, **FLAT) for options in (FP16, AUTO))
    assert automatic.lowered == made.lowered
    for file in made.lowered.files:
        assert (automatic.folder / file).read_bytes() == (made.folder / file).read_bytes(), file
    inputs = draw_inputs(made.captured.signature, 2)
    found = blame_half(made.package, inputs)
    assert found.healthy
    assert found.worth_keeping == ()
    assert found.first_over_budget is None
    assert found.difference.mean_db > 60
    # Every operation once, in the program's order and with its name before the conversion.
    program = [op for op in read_program(made.package).functions["main"].ops if not op.is_constant]
    assert [r.name for r in found.operations] == [plain_name(op.name) for op in program]
    assert [r.location for r in found.operations] == list(range(len(program)))


def test_nothing_can_be_kept_where_everything_is_float32():
    with pytest.raises(UsageError, match="everything is float32"):
        CoreMlTarget().rewrites_for(CoreMlOptions(keep_fp32=("auto",)))


def test_pictures_in_bytes_are_judged_as_bytes(export):
    made = export(SampleRequest(output="uint8"), FP16, **FLAT)
    found = blame_half(made.package, draw_inputs(made.captured.signature, 2))
    # 45 dB of floats, once rounded to 255 levels.
    assert 44.0 < found.gate_db < 45.0
    assert found.healthy
    assert found.difference.off_by_1 > 0
