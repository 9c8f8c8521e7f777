"""Stands in for `cmexport VERB ... -o DIR --json` in tests of recipes: the same files and words, in milliseconds.

    pretend_cmexport.py NOTES VERB ARGUMENTS

NOTES is a folder: `calls` gets a line with the process id when a step begins and one when it ends, `threads` one with
the step's share of the cores; `behave.json` says
what goes wrong, by step ("onnx fp16": {"code": 5}).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from cmexport.recipes.lifeline import follow_parent

SECONDS = float(os.environ.get("PRETEND_SECONDS", "0.02"))


def note(notes: Path, line: str) -> None:
    with (notes / "calls").open("a") as file:
        file.write(f"{line}\n")


def main() -> int:
    follow_parent()
    notes, verb, *arguments = Path(sys.argv[1]), *sys.argv[2:]
    out = Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else None
    precision = arguments[arguments.index("--precision") + 1] if "--precision" in arguments else ""
    name = f"{verb} {precision}".strip()
    behave = json.loads((notes / "behave.json").read_text()).get(name, {}) if (notes / "behave.json").exists() else {}
    note(notes, f"{os.getpid()} begins {name}")
    with (notes / "threads").open("a") as file:
        file.write(f"{name} {os.environ['CMEXPORT_THREADS']} {os.environ['OMP_NUM_THREADS']}\n")
    Path(os.environ["TMPDIR"], "left-behind").write_text("a library's own temporary file")
    if "--state" in arguments:
        state = Path(arguments[arguments.index("--state") + 1])
        state.write_text(str(int(state.read_text()) + 1 if state.exists() else 1))
    time.sleep(SECONDS)
    if behave.get("signal"):
        os.kill(os.getpid(), getattr(signal, behave["signal"]))
    if (code := behave.get("code", 0)) not in (0, 4):
        print(f"something before\nerror: {name}: made to fail\nin two lines", file=sys.stderr)
        return code
    printed = WRITERS[verb](out, precision, arguments, behave)
    time.sleep(SECONDS)
    sys.stdout.write(json.dumps(printed))
    note(notes, f"{os.getpid()} ends {name}")
    if code == 4:
        print("error: the gate is missed", file=sys.stderr)
    return code


def write_artifact(out: Path, precision: str, arguments: list[str], behave: dict) -> dict:
    target, checkpoint = sys.argv[2], Path(arguments[0])
    final = out / f"{checkpoint.stem}-{target}-{precision}{'.rejected' if behave.get('code') == 4 else ''}"
    partial = out / f".{final.name}.partial-{os.getpid()}"
    partial.mkdir()
    (partial / "model.onnx").write_text(f"{target} {precision} {checkpoint.read_text()}")
    time.sleep(SECONDS)
    difference = {"identical": False, "non_finite": 0, "mean_db": behave.get("db", 65.0)}
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    manifest = {
        "schema_version": 1,
        "checkpoint": {"sha256": digest, "file": checkpoint.name, "settings": []},
        "created": time.time(),
        "parity": {"rungs": [{"difference": difference}], "applied_gate_db": 60.0},
        "files": [{"bytes": 10, "role": "model"}],
    }
    (partial / "manifest.json").write_text(json.dumps(manifest))
    partial.rename(final)
    return {"folder": str(final), "manifest": manifest}


def write_records(out: Path, precision: str, arguments: list[str], behave: dict) -> dict:
    artefacts = [Path(a).name for a in arguments[: arguments.index("--device")]]
    samples = out.with_name(f"{out.name}.samples")
    samples.mkdir()
    records = []
    for name in artefacts:
        (samples / f"{name}.bin").write_text(name)
        records.append({"artifact": {"name": name}, "timing_ms": {"p50": time.time()}, "failure": None})
        with out.open("a") as file:
            file.write(json.dumps(records[-1]) + "\n")
        time.sleep(SECONDS)
    return {"records": records}


def write_report(out: Path, precision: str, arguments: list[str], behave: dict) -> dict:
    inputs = [Path(a).name for a in arguments[: arguments.index("--markdown")]]
    out.write_text(f"<html>{inputs}")
    markdown = Path(arguments[arguments.index("--markdown") + 1])
    links = [os.path.relpath(a, markdown.parent) for a in arguments[: arguments.index("--markdown")]]
    markdown.write_text("\n".join(f"![picture]({link})" for link in links))
    return {}


def write_plan(out: Path, precision: str, arguments: list[str], behave: dict) -> dict:
    out.write_text("layers")
    return {}


WRITERS = {
    **dict.fromkeys(("onnx", "coreml", "tensorrt"), write_artifact),
    "bench": write_records,
    "report": write_report,
    "plan": write_plan,
    "verify": lambda *_: {"distance": 1},
}

if __name__ == "__main__":
    # As the command line does: Ctrl-C and SIGTERM clear up; here there is nothing to clear.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
    sys.exit(main())
