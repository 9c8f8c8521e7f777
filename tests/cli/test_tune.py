"""`cmexport tune`, run as a user runs it."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest
from support.latent_pipelines import tiny_pipeline

from cmexport.alphas import AlphaSchedule
from cmexport.cli import tune

SETTINGS = ("--set", "image_size=8", "--set", "num_head_channels=32")
SMALL = ("--features", "judge_of_this_test:features", "--pictures", 24, "--levels", 8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "judge_of_this_test.py").write_text(
        "import numpy as np\n"
        "def features(x):\n    return x.mean(dim=(2, 3))\n"
        "features.mu, features.cov = np.zeros(3), np.eye(3)\n"
    )
    sys.modules.pop("judge_of_this_test", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_search_writes_the_schedule_and_other_verbs_use_it(tiny_checkpoint, cmexport, folder):
    (folder / "cmexport.toml").write_text(
        f'checkpoint = "{tiny_checkpoint}"\n[set]\nimage_size = 8\nnum_head_channels = 32\n'
    )
    found = cmexport("tune", *SMALL, "--json", cwd=folder)
    assert found.code == 0, found.stderr
    sigmas = found.json["sigmas"]
    assert sigmas[0] == 80.0
    assert 0.002 < sigmas[1] < 80.0
    assert tomllib.loads((folder / "cmexport.toml").read_text())["schedule"]["sigmas"] == sigmas
    scored = json.loads((folder / ".cmexport-tune-2.json").read_text())["scores"]
    assert len(scored) == found.json["schedules_scored"] >= 3
    assert found.json["distance"] == min(scored.values())

    again = cmexport("tune", *SMALL, cwd=folder)
    assert "going on with" in again.stderr
    exported = cmexport("onnx", "--no-verify", "-o", "out", "--json", cwd=folder)
    assert exported.code == 0, exported.stderr
    assert exported.json["manifest"]["sampling"]["sigmas"] == sigmas
    assert "tuned" in exported.stderr
    # A named checkpoint is not the project's.
    named = cmexport("onnx", tiny_checkpoint, *SETTINGS, "--no-verify", "-o", "named", "--json", cwd=folder)
    assert named.json["manifest"]["sampling"]["sigmas"] == [80.0]


def test_a_new_project_file_names_the_checkpoint(tiny_checkpoint, cmexport, folder):
    outcome = cmexport("tune", tiny_checkpoint, *SETTINGS, *SMALL, cwd=folder)
    assert outcome.code == 0, outcome.stderr
    assert tomllib.loads((folder / "cmexport.toml").read_text())["checkpoint"] == str(tiny_checkpoint)


def test_levels_of_a_latent_model_are_its_timesteps(cmexport, folder):
    found = cmexport("tune", tiny_pipeline(), *SMALL, "--json", cwd=folder)
    assert found.code == 0, found.stderr
    table = AlphaSchedule.from_config({"_class_name": "LCMScheduler"}, folder).sigmas
    first, second = found.json["sigmas"]
    assert first == table[999]
    assert second in table[1:999]
    refused = cmexport("tune", tiny_pipeline(), *SMALL[:-1], 1001, "--steps", 3, cwd=folder)
    assert (refused.code, refused.stderr) == (2, "error: --levels 1001: this model has 1000 timesteps\n")


def test_a_table_of_steps(tiny_checkpoint, cmexport, folder, monkeypatch):
    outcome = cmexport("tune", tiny_checkpoint, *SETTINGS, *SMALL, "--table", "--json", cwd=folder)
    assert outcome.code == 0, outcome.stderr
    rows = outcome.json["rows"]
    assert [row["steps"] for row in rows] == [1, 2, 4]
    assert all(row["latency_ms"] > 0 and row["bytes"] > 0 and row["distance"] > 0 for row in rows)
    assert not (folder / "cmexport.toml").exists()
    monkeypatch.setattr(tune, "TABLE_STEPS", (1,))
    text = cmexport("tune", tiny_checkpoint, *SETTINGS, "--table", cwd=folder).stdout
    assert "not judged" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--features"),
        ((*SMALL, "--steps", 1), 2, "nothing to tune"),
        ((*SMALL, "--steps", 0), 2, "--steps 0"),
        ((*SMALL, "--steps", 9), 2, "--steps 9"),
        ((*SMALL, "--jobs", 0), 2, "--jobs 0"),
        ((*SMALL, "--cluster", "slurm"), 2, "ray and dask"),
        ((*SMALL, "--address", "x:1"), 2, "--cluster"),
        (("--features", "none.pt"), 3, "none.pt"),
        (("--features", "no_such_module_here:f"), 3, "no_such_module_here"),
    ],
)
def test_refusals(tiny_checkpoint, cmexport, folder, arguments, code, words):
    before = sorted(p.name for p in folder.iterdir())
    outcome = cmexport("tune", tiny_checkpoint, *SETTINGS, *arguments, cwd=folder)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_the_project_of_another_checkpoint_is_left_alone(tiny_checkpoint, cmexport, folder):
    (folder / "cmexport.toml").write_text('checkpoint = "other.pt"\n')
    outcome = cmexport("tune", tiny_checkpoint, *SETTINGS, *SMALL, cwd=folder)
    assert outcome.code == 2
    assert "other.pt" in outcome.stderr
    assert (folder / "cmexport.toml").read_text() == 'checkpoint = "other.pt"\n'
