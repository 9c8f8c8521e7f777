"""A schedule goes into cmexport.toml without disturbing what is there."""

from __future__ import annotations

import tomllib

import pytest

from cmexport.cli.options import read_project
from cmexport.errors import OutputError, UsageError
from cmexport.tuning.project import with_schedule, write_schedule

TEXT = """# my model
checkpoint = "a.pt"  # the good one

[set]
sigma_data = 0.5
"""


def test_a_new_file_and_reading_it_back(tmp_path):
    write_schedule(tmp_path / "cmexport.toml", (80.0, 1.25), 'models/a "b".pt')
    project = read_project(tmp_path)
    assert project.sigmas == (80.0, 1.25)
    assert project.checkpoint == tmp_path / 'models/a "b".pt'


def test_everything_else_stays_to_the_letter():
    once = with_schedule(TEXT, (80.0, 1.25), "b.pt")
    assert once.startswith(TEXT)
    twice = with_schedule(once + "\n[unknown]\nx = 1\n", (80.0, 2.5))
    assert twice.startswith(TEXT)
    assert "[unknown]\nx = 1" in twice
    assert tomllib.loads(twice)["schedule"] == {"sigmas": [80.0, 2.5]}
    assert twice.count("[schedule]") == 1


def test_numbers_keep_all_their_digits(tmp_path):
    write_schedule(tmp_path / "cmexport.toml", (80.0, 1.3823679566485092))
    assert read_project(tmp_path).sigmas == (80.0, 1.3823679566485092)


def test_a_file_written_in_an_unusual_way_is_left_alone(tmp_path):
    path = tmp_path / "cmexport.toml"
    path.write_text("schedule = {sigmas = [80.0]}\n")
    with pytest.raises(OutputError, match="yourself"):
        write_schedule(path, (80.0, 1.0))
    assert path.read_text() == "schedule = {sigmas = [80.0]}\n"


@pytest.mark.parametrize("table", ["sigmas = 3", "sigmas = ['a']", "sigma = [80.0]", "sigmas = [true]"])
def test_a_faulty_schedule_is_refused(tmp_path, table):
    (tmp_path / "cmexport.toml").write_text(f"[schedule]\n{table}\n")
    with pytest.raises(UsageError, match=r"\[schedule\]"):
        read_project(tmp_path)
