"""What manifests and jobs say of a file's border is what the file itself says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.networks import model_around, one_level, random_weights

from cmexport.artifact import read_manifest
from cmexport.bench.devices.base import MeasureOptions
from cmexport.bench.folder import job_folder
from cmexport.bench.jobs import prepare_job
from cmexport.exporting import ExportOptions, export_functions
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.progress import Progress
from cmexport.signature import Signature, known
from cmexport.targets.registry import target_info

REQUESTS = (SampleRequest(sigmas=(80.0, 1.4), batch=2), SampleRequest(task="inpaint"))
LIBRARIES = {"coreml": "coremltools", "coreai": "coreai_torch"}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """A function: the tiny network's artefact for a target."""
    made = {}

    def run(target: str, precision: str, request: SampleRequest, **lowering) -> Path:
        key = (target, precision, request, *lowering.items())
        if key not in made:
            model = model_around(random_weights(AdmUnet(one_level()), 0), 8, 3)
            options = ExportOptions(target, target_info(target).options(precision=precision, **lowering), verify=None)
            made[key] = export_functions(model, (request,), options, tmp_path_factory.mktemp("border")).folder
        return made[key]

    return run


def onnx_border(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    graph = onnx.load(path).graph
    return [
        (
            value.name,
            tuple(d.dim_value for d in value.type.tensor_type.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in (*graph.input, *graph.output)
    ]


def coreml_border(package: Path) -> list[tuple[str, tuple[int, ...], str]]:
    from coremltools.proto import FeatureTypes_pb2, Model_pb2

    message = Model_pb2.Model()
    message.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    names = {
        FeatureTypes_pb2.ArrayFeatureType.FLOAT32: "float32",
        FeatureTypes_pb2.ArrayFeatureType.INT32: "int32",
        FeatureTypes_pb2.ArrayFeatureType.FLOAT16: "float16",
    }
    features = (*message.description.input, *message.description.output)
    arrays = [(f.name, f.type.multiArrayType) for f in features]
    return [(name, tuple(a.shape), names[a.dataType]) for name, a in arrays]


def border_of(folder: Path) -> list[tuple[str, tuple[int, ...], str]]:
    if (folder / "model.mlpackage").exists():
        return coreml_border(folder / "model.mlpackage")
    return onnx_border(folder / "model.onnx")


@pytest.mark.parametrize(
    ("target", "precision", "lowering", "request_"),
    [
        ("onnx", "fp32", {}, REQUESTS[0]),
        ("onnx", "fp16", {"ep": "web"}, REQUESTS[1]),
        ("tensorrt", "fp16", {}, REQUESTS[0]),
        ("coreml", "fp16", {}, REQUESTS[0]),
        ("coreml", "w8", {"ios": 16}, REQUESTS[1]),
    ],
    ids=lambda value: getattr(value, "task", str(value)),
)
def test_the_manifest_says_what_the_file_says(artefact, target, precision, lowering, request_) -> None:
    if target in LIBRARIES:
        pytest.importorskip(LIBRARIES[target])
    folder = artefact(target, precision, request_, **lowering)
    signature = read_manifest(folder).signature
    said = [(t.name, t.shape, t.dtype) for t in (*signature.inputs, signature.output)]
    # Core ML writes no shape for outputs of some programs.
    found = [(name, shape or said[i][1], dtype) for i, (name, shape, dtype) in enumerate(border_of(folder))]
    assert sorted(said) == sorted(found)


def test_the_beta_of_core_ai_takes_int32_labels(artefact) -> None:
    pytest.importorskip("coreai_torch")
    signature = read_manifest(artefact("coreai", "fp32", REQUESTS[0])).signature
    assert {i.name: i.dtype for i in signature.inputs} == {"noise": "float32", "renoise": "float32", "label": "int32"}


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_runner_can_feed_the_file_what_the_job_says(artefact, target, tmp_path) -> None:
    if target in LIBRARIES:
        pytest.importorskip(LIBRARIES[target])
    folder = artefact(target, "fp32", REQUESTS[0])
    options = MeasureOptions(pictures=4)
    job_folder(prepare_job(folder, options, Progress()), options, "alone").write(tmp_path, shutil.copy)
    job = json.loads((tmp_path / "job.json").read_text())
    border = {name: (shape, dtype) for name, shape, dtype in border_of(tmp_path / "model")}
    feeds = {}
    for spec in job["inputs"]:
        assert (tuple(spec["shape"]), spec["dtype"]) == border[spec["name"]]
        raw = np.fromfile(tmp_path / job["runs"][1][spec["name"]], np.dtype(spec["dtype"]).newbyteorder("<"))
        feeds[spec["name"]] = raw.reshape(spec["shape"])
    assert feeds["label"].tolist() == [2, 0], "picture i has label i mod classes, whatever the dtype"
    # Nothing converts on the way: the runtime itself gets the arrays.
    if target == "onnx":
        import onnxruntime

        (image,) = onnxruntime.InferenceSession(tmp_path / job["model"]).run(None, feeds)
    else:
        from cmexport.targets.coreml.executor import Executor, read_program

        image = Executor(read_program(tmp_path / job["model"]), None, "ideal")(feeds)["image"]
    assert image.shape == tuple(job["outputs"][0]["shape"])
    assert image.dtype == job["outputs"][0]["dtype"]


def test_whole_numbers_of_another_width_are_the_same_border() -> None:
    noise, label = known.noise((1, 3, 8, 8)), known.label(1, 3)

    def border(*inputs):
        return Signature(inputs, known.finished((1, 3, 8, 8)))

    assert border(noise, label).takes_as(border(noise, replace(label, dtype="int32")))
    assert not border(noise, label).takes_as(border(noise, replace(label, dtype="int32", shape=(2,))))
    assert not border(noise).takes_as(border(replace(noise, dtype="float16")))
