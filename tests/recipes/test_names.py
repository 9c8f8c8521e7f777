"""What recipes may name is what the registries and the command line have."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from cmexport.bench.devices.registry import FORMS
from cmexport.cli.exporting import export_verb
from cmexport.recipes import names
from cmexport.recipes.schema import Recipe, Target, TargetPart
from cmexport.sampling.editing import TASKS
from cmexport.sampling.heun import HeunSampler
from cmexport.sampling.methods import METHODS
from cmexport.targets.registry import INFOS


def test_targets_and_precisions() -> None:
    assert get_args(names.TargetName) == tuple(INFOS)
    assert set(get_args(names.Precision)) == {p for info in INFOS.values() for p in info.precisions}


def test_tasks() -> None:
    assert set(get_args(names.TaskName)) == set(TASKS)


def test_samplers() -> None:
    assert set(get_args(names.Sampler)) == set(METHODS)
    assert {name for name, method in METHODS.items() if method.module is HeunSampler} == names.LOOPED


def test_devices() -> None:
    kinds = {form.partition("://")[0] for form in FORMS}
    assert kinds == {"local", "ssh", "adb", "browser", "folder"}
    assert all(set(info.devices) <= kinds for info in INFOS.values())


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_every_option_of_a_target_is_one_of_its_verb(info) -> None:
    known = set(inspect.signature(export_verb(info)).parameters)
    assert set(info.by_name) <= known
    assert not {name for other in INFOS.values() for name in other.by_name} - set(info.by_name) - {"batch"} & known


def test_every_key_of_a_target_is_known_and_described() -> None:
    own = {key for info in INFOS.values() for key in info.by_key}
    assert own == set(Target.model_fields) - set(TargetPart.model_fields)
    assert all(field.description for name, field in Target.model_fields.items() if name not in ("precisions",))
    assert set(Recipe.model_fields) >= {"checkpoint", "schedules", "targets", "devices", "report"}
