"""The stranger's file beside ours: what is fetched, what each engine is fed, and that the page is the records'."""

from __future__ import annotations

import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import fetch_terrain, their_file
from benchmarks.harness.engines.onnx_runtime import OnnxRuntime


def test_another_wheel_is_refused(tmp_path) -> None:
    wheel = tmp_path / "adaptive_terrain_diffusion-0.4.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"terrain_diffusion/weights/{fetch_terrain.NAME}", b"something else")
    target = tmp_path / "made" / fetch_terrain.NAME
    with pytest.raises(fetch_terrain.FetchError, match="its SHA-256 differs"):
        fetch_terrain.fetch(wheel, target)
    assert not list(target.parent.iterdir())


def test_a_wheel_with_another_model_is_refused(tmp_path, monkeypatch) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"terrain_diffusion/weights/{fetch_terrain.NAME}", b"something else")
    monkeypatch.setattr(fetch_terrain, "WHEEL_SHA256", fetch_terrain._sha256(wheel))
    target = tmp_path / "made" / fetch_terrain.NAME
    with pytest.raises(fetch_terrain.FetchError, match="is not the recorded file"):
        fetch_terrain.fetch(wheel, target)
    monkeypatch.setattr(fetch_terrain, "FILE_SHA256", fetch_terrain._sha256(_written(tmp_path / "y")))
    assert fetch_terrain.fetch(wheel, target).read_bytes() == b"something else"
    assert fetch_terrain.fetch(tmp_path / "gone.whl", target) == target  # there already


def _written(path):
    path.write_bytes(b"something else")
    return path


@pytest.mark.parametrize("name", [their_file.THEIRS, "cmexport fp32"])
def test_both_forms_are_fed_the_same_picture(name, tmp_path) -> None:
    """A graph that adds all it is given: sigma and a share for their form, units for ours."""
    theirs = name == their_file.THEIRS
    given = {"noisy": (1, 1, 128, 128), "sigma": (1,), "difficulty": (1,)}
    given = given if theirs else {"noise": (1, 1, 128, 128), "difficulty": (1,)}
    border = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in given.items()]
    out = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 128, 128))
    graph = helper.make_graph([helper.make_node("Sum", list(given), ["image"])], "sum", border, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "sum.onnx")
    engine = OnnxRuntime(their_file.engine(name, tmp_path / "sum.onnx", 1))
    engine.prepare()
    engine.load()
    noise = np.random.default_rng(0).standard_normal((1, 1, 128, 128), dtype=np.float32)
    expected = 80 * noise + 80 + 39 / 99 if theirs else noise + 40
    np.testing.assert_allclose(engine.picture(), expected, rtol=1e-5, atol=1e-4)


def test_the_page_is_what_the_records_say() -> None:
    paths = sorted(their_file.RESULTS.glob("*.json"))
    records = [their_file.TheirFileRecord.model_validate_json(path.read_text()) for path in paths]
    assert records
    assert their_file.PAGE.read_text() == their_file.render(records)
    for record in records:
        assert (record.wheel_sha256, record.pictures) == (fetch_terrain.WHEEL_SHA256, 64)
        by_name = {engine.name: engine for engine in record.engines}
        assert by_name[their_file.THEIRS].ratio.median == by_name[their_file.THEIRS].load_ratio == 1
        assert by_name["cmexport fp32"].max_abs < 1e-4
