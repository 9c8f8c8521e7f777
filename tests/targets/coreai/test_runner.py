"""Opening, running and closing an asset; damaged ones are refused before Apple's reader sees them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile

import numpy as np
import pytest

from cmexport.errors import BackendError, CheckpointError
from cmexport.targets.coreai.runner import CoreAiRunner

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)


@pytest.fixture
def copy(write, tmp_path):
    return shutil.copytree(write().asset, tmp_path / "copy.aimodel")


def _flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["main.mlirb", "main.hash", "metadata.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        CoreAiRunner(copy)


def test_no_asset_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"main\.mlirb is missing"):
        CoreAiRunner(tmp_path / "none.aimodel")


@pytest.mark.parametrize(
    "damage",
    [
        lambda asset: _flip(asset / "main.mlirb", 5000),
        lambda asset: (asset / "main.mlirb").write_bytes((asset / "main.mlirb").read_bytes()[:3000]),
        lambda asset: (asset / "main.mlirb").write_bytes(b""),
        lambda asset: (asset / "main.hash").write_bytes(b"x"),
    ],
    ids=["one bit", "truncated", "empty", "another hash"],
)
def test_a_damaged_program_is_refused_not_opened(copy, damage):
    damage(copy)
    with pytest.raises(CheckpointError, match=r"main\.mlirb is damaged"):
        CoreAiRunner(copy)


def test_damaged_metadata_is_refused(copy):
    (copy / "metadata.json").write_text("{")
    with pytest.raises(BackendError, match=r"copy\.aimodel: Core AI can't load it"):
        CoreAiRunner(copy)


def test_an_input_that_does_not_fit_is_refused(write):
    made = write()
    inputs = made.inputs()
    with CoreAiRunner(made.asset) as run:
        with pytest.raises(BackendError, match="Core AI failed while predicting"):
            run({"noise": inputs["noise"]})
        # And goes on working.
        assert np.isfinite(run(inputs)["image"]).all()


def test_inside_a_running_event_loop(write):
    made = write()
    inputs = made.inputs()

    async def notebook():
        return made.run(inputs)

    assert np.array_equal(asyncio.run(notebook()), made.run(inputs))


def test_results_outlive_the_next_run_and_the_runner(write):
    made = write()
    first, second = made.inputs(1), made.inputs(2)
    with CoreAiRunner(made.asset) as run:
        kept = run(first)["image"]
        copy = kept.copy()
        assert not np.array_equal(run(second)["image"], copy)
    assert np.array_equal(kept, copy)


def test_arrays_of_any_layout_are_taken(write):
    made = write()
    inputs = made.inputs()
    turned = {**inputs, "noise": np.asfortranarray(inputs["noise"])}
    assert np.array_equal(made.run(turned), made.run(inputs))


def test_closing_leaves_nothing_behind(write, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = write()
    with CoreAiRunner(made.asset) as run:
        run(made.inputs())
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_loading_says_nothing(write, capfd):
    made = write()
    made.run(made.inputs())
    assert capfd.readouterr() == ("", "")
