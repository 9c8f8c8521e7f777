"""pyproject.toml and constraints.txt agree: everything asked for is pinned, inside the range asked for."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cmexport
from cmexport.bench import on_device
from cmexport.errors import BackendError

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, BUILD = SETTINGS["project"], SETTINGS["tool"]["hatch"]["build"]
LISTS = {"base": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("extra", LISTS)
def test_every_requirement_is_pinned_within_its_range(extra: str):
    for requirement in map(Requirement, LISTS[extra]):
        if requirement.name == "cmexport":
            assert requirement.extras <= LISTS.keys()
            continue
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_the_pins_bring_no_cuda_build_of_torch():
    assert not [name for name in PINS if name.startswith("nvidia-") and name != "nvidia-ml-py"]
    assert "+" not in "".join(PINS.values())


def test_the_constraints_hold_nothing_but_pins_and_comments():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if line and not re.match(r"#|[\w.-]+==[\w.]+$", line)] == []


def test_an_installed_package_has_the_runners_where_it_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for source, place in BUILD["targets"]["wheel"]["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / place, ignore=shutil.ignore_patterns("vendor", "__pycache__"))
    monkeypatch.setattr(on_device, "__file__", str(tmp_path / "cmexport/bench/on_device.py"))
    assert (on_device.device_files("python") / "runner.py").read_bytes() == (
        ROOT / "bench_device/python/runner.py"
    ).read_bytes()
    assert (on_device.device_files("web") / "index.html").is_file()
    assert tmp_path in on_device.device_files("web").parents
    with pytest.raises(BackendError, match="reinstall"):
        on_device.device_files("toaster")


def test_the_version_is_a_release():
    assert re.fullmatch(r"\d+\.\d+\.\d+", cmexport.__version__)
