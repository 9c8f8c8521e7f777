"""Descriptors are light, agree with what they describe and with the manual."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cmexport.cli.options import PRECISION_FLAGS
from cmexport.errors import UsageError
from cmexport.exporting import ExportOptions
from cmexport.quantize.compression import RECIPES
from cmexport.targets.base import Target
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.info import LoweringOptions
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.registry import INFOS, target_info, target_named

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
each = pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)


def test_names_cost_no_import_of_a_library() -> None:
    code = "import sys, cmexport.targets.registry; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "onnx", "onnxruntime", "pydantic", "typer", "coremltools"} & set(done.stdout.split())


@each
def test_what_it_describes_is_there(info) -> None:
    assert Target in type(target_named(info.name)).__mro__
    assert target_named(info.name) is target_named(info.name)
    assert issubclass(info.options, LoweringOptions)
    own = {field.name for field in fields(info.options)} - {field.name for field in fields(LoweringOptions)}
    assert [option.field for option in info.spelled] == [f.name for f in fields(info.options) if f.name in own]
    assert {option.implies for option in info.spelled} - {None} <= set(info.precisions)
    assert set(info.loop_precisions) <= set(info.precisions)


def test_core_ml_has_the_precisions_of_its_compression() -> None:
    assert target_info("coreml").precisions == ("fp32", "fp16", "int8", *RECIPES)


@each
def test_the_manual_has_a_row_for_the_verb_and_describes_its_options(info) -> None:
    rows = [line for line in MANUAL.splitlines() if line.startswith(f"| `{info.name} [CKPT]` |")]
    assert len(rows) == 1
    said = set(re.findall(r"--[a-z][a-z0-9-]+", MANUAL))
    flags = [name for name in info.precisions if name in PRECISION_FLAGS]
    assert {f"--{name.replace('_', '-')}" for name in (*info.by_name, *flags)} <= said


def test_the_manual_has_no_row_of_another_target() -> None:
    assert set(re.findall(r"^\| `(\w+) \[CKPT\]` \| export", MANUAL, re.MULTILINE)) == set(INFOS)


def test_options_of_another_target_are_refused() -> None:
    plain = ExportOptions("coreml", LoweringOptions(precision="fp16"))
    assert plain.lowering == CoreMlOptions(precision="fp16")
    assert ExportOptions().lowering == OnnxOptions()
    with pytest.raises(UsageError, match="coreml: takes CoreMlOptions, not OnnxOptions"):
        ExportOptions("coreml", OnnxOptions())
