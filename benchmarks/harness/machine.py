"""Which machine this is, in the words of the record."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness.records import MachineRecord
from cmexport.doctor.machine import examine_machine

PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "diffusers", "numpy")
_IDENTITY = ("cpu family", "model", "stepping")


def describe_machine(threads: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> MachineRecord:
    """This machine, with the number of threads that engines get."""
    found = examine_machine(cpuinfo)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return MachineRecord(
        processor=found.processor or "unknown processor",
        model=_model(cpuinfo),
        cores=found.cores_usable,
        threads=threads,
        memory_bytes=found.memory_bytes,
        features=found.cpu_features,
        system=found.system,
        python=found.python,
        versions=versions,
    )


def _model(cpuinfo: Path) -> str:
    """Family, model and stepping: virtual machines hide the name, rarely these ("6-207-2": Emerald Rapids)."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return ""
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    return "-".join(fields[key] for key in _IDENTITY if key in fields)


def slug(machine: MachineRecord) -> str:
    """File name of the machine's results, e.g. `intel-xeon-processor-6-207-2-2-cores`."""
    name = re.sub(r"\((r|tm)\)|@.*$", "", machine.processor.lower())
    words = re.findall(r"[a-z0-9]+", f"{name} {machine.model} {machine.threads} threads")
    return "-".join(words)
