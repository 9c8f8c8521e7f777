"""Kill a real run of a recipe at random moments; the last rerun must finish and equal an undisturbed one.

    python tests/recipes/kill_a_recipe.py [RECIPE] [--kills 10] [--seed S] [--keep DIR]

Runs `cmexport run RECIPE` (recipes/demo-all.toml) once in peace, then again with SIGKILL at random moments, each time
starting it anew; when it finishes before its time, its output is removed and it begins from nothing. Then it is left to
finish. Every file must be the same but for figures of time, nothing may be left, no step may outlive its run. About 20
minutes for the demo on two cores, so pytest doesn't collect it; tests/recipes/test_kills.py does the same with
pretended steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# Keys whose values are measured, or follow from files in which something is: hashes of manifests and records.
MEASURED = {
    *("created", "seconds", "reference_seconds", "key", "started", "finished", "run"),
    *("timing_ms", "memory_mb", "energy", "validity", "sustained", "samples", "p50_ms", "conditions"),
}
TOLERATED = ("report.html", "report.md")
"""Hold figures of time throughout: the text without its numbers must be the same. Charts have a mark for each timed
run, as many as the time allowed, so of them only the number counts."""
CHART = re.compile(r"<svg.*?</svg>", re.DOTALL)
FIGURE = re.compile(r"[0-9a-f]{12,}|[+-]?\d[\d.,]*(?:\N{NARROW NO-BREAK SPACE}\d{3})*")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=ROOT / "recipes" / "demo-all.toml")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default random, printed")
    parser.add_argument("--keep", type=Path, default=None, help="folder for both outputs; default a temporary one")
    parser.add_argument("--calm", type=Path, default=None, help="output of an undisturbed run that was made before")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10**6)
    moments = random.Random(seed)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="cmexport-kills-"))
    calm, killed = asked.calm or folder / "calm", folder / "killed"
    begun = time.monotonic()
    code = start(asked.recipe, calm).wait()
    # Of a run that was made before everything is done already, and its steps say how long they took.
    undisturbed_s = seconds_of(calm) if asked.calm else time.monotonic() - begun
    print(f"seed {seed}; undisturbed: {undisturbed_s:.0f} s, exit code {code}", flush=True)
    faults: list[str] = []
    kills = 0
    while kills < asked.kills:
        process = start(asked.recipe, killed)
        moment_s = moments.uniform(0.5, undisturbed_s / 3)
        try:
            ended = process.wait(timeout=moment_s)
        except subprocess.TimeoutExpired:
            family = [c for c in psutil.Process(process.pid).children(recursive=True) if "-m" in c.cmdline()]
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            what = running(killed)
            _, alive = psutil.wait_procs(family, timeout=15)
            faults += [f"kill {kills}: process {p.pid} outlives the run" for p in alive]
            print(f"kill {kills}: after {moment_s:.1f} s, during {what}; steps gone: {not alive}", flush=True)
        else:
            print(f"finished within {moment_s:.0f} s (exit code {ended}): from nothing again", flush=True)
            faults += [] if ended == code else [f"a rerun ended with {ended}, not {code}"]
            faults += compare(calm, killed)
            shutil.rmtree(killed)
    ended = start(asked.recipe, killed).wait()
    faults += [] if ended == code else [f"the last rerun ended with {ended}, not {code}"]
    faults += compare(calm, killed)
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{kills} kills, {len(faults)} faults, {sum(p.is_file() for p in calm.rglob('*'))} files compared; {folder}")
    if not faults and asked.keep is None:
        shutil.rmtree(folder)
    return 1 if faults or kills < asked.kills else 0


def seconds_of(out: Path) -> float:
    """How long the steps took, two at a time."""
    return sum(json.loads(p.read_text())["seconds"] for p in (out / ".cmexport-run" / "steps").iterdir()) / 2


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "cmexport", "run", str(recipe), "-o", str(out), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def running(out: Path) -> str:
    """Steps that were being worked on."""
    work = out / ".cmexport-run" / "work"
    return ", ".join(sorted(p.name for p in work.iterdir())) if work.is_dir() and any(work.iterdir()) else "no step"


def compare(calm: Path, killed: Path) -> list[str]:
    one, other = tree(calm), tree(killed)
    missing = [f"{name}: {'missing' if name in one else 'stray'}" for name in sorted(set(one) ^ set(other))]
    differ = [f"{name}: differs" for name in sorted(set(one) & set(other)) if one[name] != other[name]]
    return missing + differ


def tree(out: Path) -> dict[str, Any]:
    """Content by path; raw samples are named after their hash, so they are only counted."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if ".samples/" in name:
            folder = name.partition(".samples/")[0]
            found[f"{folder}.samples/*"] = found.get(f"{folder}.samples/*", 0) + 1
        else:
            found[name] = "folder" if path.is_dir() else content(path, out)
    return found


def content(path: Path, out: Path) -> Any:
    if path.parent.name == "steps":
        state = without(json.loads(path.read_text()))
        return {**state, "outputs": sorted(re.sub(r"\.samples/.*", ".samples", o) for o in state["outputs"])}
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(str(out), "OUT")
        try:
            return without(json.loads(text))
        except ValueError:
            return [without(json.loads(line)) for line in text.splitlines()]
    if path.name in TOLERATED:
        text = path.read_text(errors="replace").replace(str(out), "OUT")
        return FIGURE.sub("#", CHART.sub("CHART", text))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without(item) for key, item in value.items() if key not in MEASURED}
    return [without(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
