"""Packages as they lie on disk: they draw PyTorch's pictures, and hold the operations we wanted and no others."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from cmexport.errors import BackendError, UsageError
from cmexport.graph.capture import capture
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.coreml import lower as lowering
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.lower import lower
from cmexport.targets.coreml.runner import ExecutorRunner

FP32, FP16 = CoreMlOptions(), CoreMlOptions(precision="fp16")

# One level of resolution: a conversion takes half the time. "one step" has two, and so do the structure tests.
FLAT = {"channel_mult": (1,)}
REQUESTS = {
    "one step": (SampleRequest(), {}),
    "three steps": (SampleRequest(batch=2, sigmas=(80.0, 1.4, 0.6)), FLAT),
    "a baked label": (SampleRequest(label=3), FLAT),
    "no labels": (SampleRequest(), {**FLAT, "num_classes": None}),
    "inpaint": (SampleRequest(task="inpaint", sigmas=(80.0, 1.4)), FLAT),
    "colorize": (SampleRequest(task="colorize"), FLAT),
    "superres": (SampleRequest(task="superres", patch=4), FLAT),
    "stroke": (SampleRequest(task="stroke", sigmas=(3.0,)), FLAT),
    "denoise": (SampleRequest(task="denoise", sigmas=(1.4,)), FLAT),
}


@pytest.mark.parametrize("which", REQUESTS)
def test_float32_packages_draw_the_references_pictures(export, psnr, which):
    request, fields = REQUESTS[which]
    made = export(request, FP32, **fields)
    inputs = made.inputs()
    assert psnr(made.reference(inputs), made.run(inputs)) >= 110.0


@pytest.mark.parametrize("ios", [16, 17, 18])
def test_half_precision_on_every_deployment_target(export, psnr, spec, ios):
    made = export(SampleRequest(), CoreMlOptions(precision="fp16", ios=ios))
    inputs = made.inputs()
    assert psnr(made.reference(inputs), made.run(inputs)) >= 60.0
    # Core ML's specification versions 7, 8 and 9 came with iOS 16, 17 and 18.
    assert spec(made.package).specificationVersion == ios - 9


def test_half_precision_computes_in_halves_between_float_borders(export, spec, ops_of):
    made = export(SampleRequest(), FP16)
    kinds = {kind for _, _, types in ops_of(made.package) for kind in types}
    float16, float32 = 10, 11
    assert kinds == {float16, float32}
    wide = [op for op, _, types in ops_of(made.package) if float32 in types]
    assert wide == ["cast"]
    description = spec(made.package).description
    # ArrayFeatureType.ArrayDataType: FLOAT32 is 0x10000 | 32, INT32 0x20000 | 32.
    assert [f.type.multiArrayType.dataType for f in description.input] == [65568, 131104]
    assert {f.name for f in description.input} == {"noise", "label"}
    assert [f.name for f in description.output] == ["image"]


def test_edited_pictures_leave_under_a_name_of_their_own(export, spec):
    request, fields = REQUESTS["inpaint"]
    made = export(request, FP32, **fields)
    assert {f.name for f in spec(made.package).description.input} == {"noise", "renoise", "label", "image", "mask"}
    assert [f.name for f in spec(made.package).description.output] == ["edited"]


def test_one_operation_for_what_core_ml_has_one_for(export):
    made = export(SampleRequest(), FP16)
    network = made.model.network
    norms = sum(type(m).__name__ == "GroupNorm" for m in network.modules())
    assert made.counts["instance_norm"] == norms
    assert made.counts["scaled_dot_product_attention"] == 1
    assert made.counts["gather"] == 1
    # One transpose into attention and one out of it; a cast of the noise and one of the picture.
    assert made.counts["transpose"] == 2
    assert made.counts["cast"] == 2
    for unwanted in ("square", "reduce_mean", "batch_norm", "greater_equal", "select", "softmax", "sigmoid"):
        assert unwanted not in made.counts


def test_products_in_place_of_fused_attention_below_ios_18(export):
    made = export(SampleRequest(), CoreMlOptions(precision="fp16", ios=17))
    assert made.counts["matmul"] == 2
    assert made.counts["softmax"] == 1
    assert "transpose" not in made.counts
    assert "scaled_dot_product_attention" not in made.counts


@pytest.mark.parametrize("which", ["one step", "three steps", "superres"])
def test_nothing_but_the_renoise_input_has_more_than_four_dimensions(export, ops_of, which):
    request, fields = REQUESTS[which]
    made = export(request, FP32, **fields)
    assert max(len(shape) for _, shapes, _ in ops_of(made.package) for shape in shapes) <= 4


def test_steps_share_their_weights(export):
    one, three = (export(r, FP32, **FLAT) for r in (SampleRequest(label=3), REQUESTS["three steps"][0]))
    sizes = [(m.package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for m in (one, three)]
    assert sizes[1] < 1.2 * sizes[0]


@pytest.mark.parametrize(("channels", "space"), [(3, "RGB"), (1, "GRAYSCALE")])
def test_image_outputs_are_pictures_and_come_back_as_bytes(export, spec, channels, space):
    fields = FLAT if channels == 3 else {**FLAT, "in_channels": 1, "out_channels": 1}
    made = export(SampleRequest(output="uint8"), FP32, **fields)
    (feature,) = spec(made.package).description.output
    image = feature.type.imageType
    assert (image.width, image.height) == (8, 8)
    assert image.ColorSpace.Name(image.colorSpace) == space
    inputs = made.inputs()
    reference, found = made.reference(inputs), made.run(inputs)
    assert found.dtype == np.uint8
    assert found.shape == (1, 8, 8, channels)
    # A value on the edge between two levels may fall to the other side.
    assert np.mean(reference != found) < 0.02
    assert np.abs(reference.astype(int) - found).max() <= 1


def test_equal_exports_are_equal_bytes(rewritten, export, tmp_path):
    made = export(SampleRequest(label=3), FP16, **FLAT)
    _, captured = rewritten(SampleRequest(label=3), **FLAT)
    again = lower(captured, FP16, tmp_path, lambda _: None)
    assert again == made.lowered
    for file in again.files:
        assert (tmp_path / file).read_bytes() == (made.folder / file).read_bytes(), file


def test_files_are_all_of_the_package_manifest_first(export):
    made = export(SampleRequest(), FP16)
    assert made.lowered.files[0] == "model.mlpackage/Manifest.json"
    inside = {p.relative_to(made.folder).as_posix() for p in made.package.rglob("*") if p.is_file()}
    assert set(made.lowered.files) == inside
    assert made.lowered.session == {"ios": 18, "half": True}
    assert made.lowered.precision_plan["default"] == "float16"


def test_without_rewrites_the_stock_lowering_is_right_too(psnr, tmp_path, small_model):
    model, request = small_model(**FLAT), SampleRequest()
    graph = capture(resolve(model, request))
    lower(graph, CoreMlOptions(rewrites="none"), tmp_path, lambda _: None)
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32), "label": np.array([4])}
    with TorchRunner(resolve(model, request)) as reference, ExecutorRunner(tmp_path / "model.mlpackage") as run:
        assert psnr(reference(inputs)["image"], run(inputs)["image"]) >= 110.0


@pytest.mark.parametrize(
    ("request_", "options", "said"),
    [
        (SampleRequest(), CoreMlOptions(ios=15), "--ios 15: known are 16, 17, 18"),
        (SampleRequest(), CoreMlOptions(rewrites="pack_attention"), "unknown rewrite 'pack_attention'"),
        (SampleRequest(output="uint8", batch=2), FP32, "--batch 2: a Core ML image output holds one picture"),
    ],
)
def test_what_can_not_be_made_is_refused_first(rewritten, tmp_path, request_, options, said):
    _, captured = rewritten(request_, **FLAT)
    with pytest.raises(UsageError, match=said):
        lower(captured, options, tmp_path, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_an_operator_without_a_core_ml_form_is_a_sentence(toy, tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, noise):
            return torch.special.bessel_j0(noise)

    with pytest.raises(BackendError, match="can't be translated for iOS 18"):
        lower(toy(Odd(), noise=torch.zeros(1, 3, 8, 8)), FP32, tmp_path, lambda _: None)


def test_fewer_checks_write_the_same_bytes(rewritten, tmp_path, monkeypatch):
    """Against coremltools' own pace, with a check after every pass."""
    _, captured = rewritten(SampleRequest(), **FLAT)
    written = []
    for name in ("few", "all"):
        package = tmp_path / name / "model.mlpackage"
        package.parent.mkdir()
        lower(captured, FP16, package.parent, lambda _: None)
        written.append({p.relative_to(package): p.read_bytes() for p in package.rglob("*") if p.is_file()})
        monkeypatch.setattr(lowering, "_fewer_checks", nullcontext)
    assert len(written[0]) == 3
    assert written[0] == written[1]


def test_a_defect_of_a_pass_is_still_found_and_every_check_comes_back():
    """An operation said to use a value once more than it does, as a pass could leave it."""
    from coremltools.converters.mil.mil import Builder, Function, Program

    program = Program()
    with Function({"x": Builder.placeholder(shape=(2,))}) as function:
        first = Builder.relu(x=function.inputs["x"], name="first")
        second = Builder.relu(x=first, name="second")
        function.set_outputs([second])
    program.add_function("main", function)
    first.child_ops.append(second.op)
    original = Program.validate
    with lowering._fewer_checks():
        program.validate(check_essential_scope=False)
        with pytest.raises(Exception, match="Var first should be consumed"):
            program.validate(check_essential_scope=True)
    assert Program.validate is original
    with pytest.raises(Exception, match="Var first should be consumed"):
        program.validate()
