"""How long `make demo` takes on a quiet machine, and beside two processes that never sleep.

    .venv/bin/python benchmarks/demo_under_load.py [--recipe recipes/demo.toml] [--busy 2] [--only quiet|busy]

Prints seconds to the first finished picture and to the end, and their ratio. The aims: 20 s, 100 s, and three times as
long beside the two. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = re.compile(r"first picture after (\d+) s")


def demo(recipe: Path) -> tuple[float | None, float]:
    """Seconds to the first picture and to the end, in a folder of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        command = [sys.executable, "-m", "cmexport", "run", str(recipe), "-o", str(Path(folder) / "out")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        spent = time.monotonic() - begun
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    print(done.stdout)
    found = FIRST.search(done.stderr)
    return (None if found is None else float(found[1])), spent


def beside(number: int, recipe: Path) -> tuple[float | None, float]:
    """The same beside so many processes that never sleep."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        return demo(recipe)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.toml")
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--only", choices=("quiet", "busy"))
    given = parser.parse_args()
    quiet = busy = None
    if given.only != "busy":
        quiet = demo(given.recipe)
        print(f"quiet: first picture {quiet[0]} s, all {quiet[1]:.0f} s", flush=True)
    if given.only != "quiet":
        busy = beside(given.busy, given.recipe)
        print(f"beside {given.busy} busy processes: first picture {busy[0]} s, all {busy[1]:.0f} s", flush=True)
    if quiet and busy:
        print(f"ratio {busy[1] / quiet[1]:.2f}")


if __name__ == "__main__":
    main()
