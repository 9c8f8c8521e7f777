"""What recipes may name is what the registries and the command line have."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import get_args

import pytest

from cmexport.bench.devices.registry import FORMS
from cmexport.recipes import names
from cmexport.recipes.schema import Recipe, Target
from cmexport.sampling.editing import TASKS
from cmexport.targets.registry import TARGETS


def test_targets_and_precisions() -> None:
    assert tuple(TARGETS) == names.TARGETS
    assert {name: target.precisions for name, target in TARGETS.items()} == dict(names.PRECISIONS)
    assert set(get_args(names.Precision)) == {p for target in TARGETS.values() for p in target.precisions}


def test_tasks() -> None:
    assert set(get_args(names.TaskName)) == set(TASKS)


def test_devices() -> None:
    assert {form.partition("://")[0] for form in FORMS} == {"local", "ssh", "adb", "browser", "folder"}


@pytest.mark.parametrize("target", names.TARGETS)
def test_every_option_of_a_target_is_one_of_its_verb(target) -> None:
    known = set(inspect.signature(import_module(f"cmexport.cli.{target}").command).parameters)
    assert set(names.TARGET_OPTIONS[target]) <= known
    others = {option for options in names.TARGET_OPTIONS.values() for option in options} - set(
        names.TARGET_OPTIONS[target]
    )
    assert not others & known, "the verb takes it, the recipe doesn't"


def test_every_key_of_a_target_is_known() -> None:
    assert {o for options in names.TARGET_OPTIONS.values() for o in options} <= set(Target.model_fields)
    assert all(field.description for name, field in Target.model_fields.items() if name not in ("precisions",))
    assert set(Recipe.model_fields) >= {"checkpoint", "schedules", "targets", "devices", "report"}
