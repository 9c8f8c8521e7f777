"""Which libraries are installed, and whether they open.

A library is looked up by its metadata first. Only an installed one is opened, in a process of its own: importing
diffusers takes 8 s and 0.4 GB, coremltools 4 s and 0.4 GB, and a GPU library that meets a wrong driver may take its
process down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from cmexport.doctor.findings import Backend
from cmexport.doctor.probes import MARK
from cmexport.targets.info import Finding, Library
from cmexport.targets.registry import INFOS

PROBE_TIMEOUT_S = 120


_FIRST = (
    Library("torch", "reads checkpoints, is the reference", ("torch",), probe="torch"),
    Library("onnx", "writes ONNX files", ("onnx",)),
    Library("onnxscript", "exports to ONNX", ("onnxscript",)),
    Library("ONNX Runtime", "runs ONNX files", ("onnxruntime", "onnxruntime-gpu"), probe="onnxruntime"),
    Library("diffusers", "reads diffusers folders", ("diffusers",), "diffusers", "diffusers"),
)
_LAST = (
    Library("OpenVINO", "Intel CPUs, GPUs and NPUs", ("openvino",), "openvino", "openvino"),
    Library("ONNX Runtime QNN", "Snapdragon NPUs", ("onnxruntime-qnn",), "qnn", "qnn"),
    Library("onnxsim", "rewrites ONNX files (--simplify)", ("onnxsim",), "simplify", "onnxsim"),
    Library("psutil", "memory in `make bench`", ("psutil",), "bench"),
    Library("zeus", "energy in benchmarks", ("zeus",), "bench"),
    Library("asyncssh", "benchmarks over ssh", ("asyncssh",), "bench"),
    Library("segno", "QR code for phones", ("segno",), "bench"),
    Library("cryptography", "https for phones' browsers", ("cryptography",), "bench"),
    Library("jinja2", "HTML report", ("jinja2",), "report"),
)

_REQUIRED = frozenset({"torch", "onnx", "onnxscript", "ONNX Runtime"})


def libraries() -> tuple[Library, ...]:
    """All that may be looked for, in the order in which they are shown."""
    return (*_FIRST, *(library for info in INFOS.values() for library in info.libraries), *_LAST)


def remedy_for(extra: str | None) -> str:
    """Return the command that installs an extra of cmexport, or the package itself again."""
    return f"pip install 'cmexport[{extra}]'" if extra else "pip install --force-reinstall cmexport"


def installed_version(distributions: Sequence[str]) -> str | None:
    """Version of the first distribution that is installed, None if none is; imports nothing."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def run_probe(name: str) -> Finding:
    """Open one library in a process of its own.

    Args:
        name: key into `PROBES`, or "module:function" of a target's own.

    Returns:
        The finding; "broken" with the last line of what was printed when the process fails, crashes or hangs.
    """
    code = f"from cmexport.doctor.probes import probe_main; probe_main({name!r})"
    # The parent's own path, without the current folder: an `onnx.py` lying there must not be imported.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("broken", f"did not open within {PROBE_TIMEOUT_S} s")
    # Libraries print notices of their own around our line, also after it.
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            fields = json.loads(line.removeprefix(MARK))
            return Finding(fields["state"], fields["detail"], fields["remedy"])
    printed = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return Finding("broken", f"crashed with signal {-done.returncode} while opening")
    return Finding("broken", printed[-1][:200] if printed else f"ended with code {done.returncode} while opening")


def examine_backends(probe: Callable[[str], Finding]) -> tuple[Backend, ...]:
    """All of `libraries()`, in order; two probes at a time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return tuple(pool.map(lambda library: _examine(library, probe), libraries()))


def _examine(library: Library, probe: Callable[[str], Finding]) -> Backend:
    version = installed_version(library.distributions)
    if version is None:
        finding = Finding("missing", "not installed")
    elif library.probe is None:
        finding = Finding("works", "installed")
    else:
        finding = probe(library.probe)
    remedy = finding.remedy
    if remedy is None and finding.state in ("broken", "missing"):
        remedy = library.remedy or remedy_for(library.extra)
    return Backend(
        name=library.name,
        purpose=library.purpose,
        state=finding.state,
        version=version,
        detail=finding.detail,
        remedy=remedy,
        required=library.name in _REQUIRED,
    )
