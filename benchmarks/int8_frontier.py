"""8 bits in ONNX Runtime on this CPU: dB against measured latency against size, of plain recipes and of ours.

    python benchmarks/int8_frontier.py [--count 1500] [--features ruler.pt] [-o docs/int8-frontier]

Exports the demo model at every precision plan worth comparing, lets them take turns with the naive float32
export, one process per file, and compares every picture of `--count` seeds with the float32 file's. Prints a
Markdown table; writes a JSON record and a picture under the name `-o` (`.json`, `.svg`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(ROOT)

from benchmarks.harness.machine import describe_machine  # noqa: E402
from benchmarks.harness.process import EngineProcess, child_environment  # noqa: E402
from benchmarks.harness.specs import EngineSpec, HostLoop, path_of  # noqa: E402
from benchmarks.harness.statistics import ratios, shuffled_orders, steady_rounds, summarize  # noqa: E402
from benchmarks.harness.subjects import SUBJECTS  # noqa: E402
from benchmarks.harness.table import machine_line  # noqa: E402
from cmexport.artifact.frontier import FrontierPoint, frontier_svg  # noqa: E402
from cmexport.parity.metrics import compare  # noqa: E402
from cmexport.quality.frechet import Gaussian, Moments, add_up, frechet_distance  # noqa: E402
from cmexport.quality.jury import Jury, load_jury  # noqa: E402

NAIVE = "naive float32 export"
PLAIN = {"plain U8S8": ("QUInt8", False), "plain S8S8": ("QInt8", True)}
"""`quantize_static` on the naive export: type of activations, and whether they are symmetric."""
EXPORTS: dict[str, tuple[str, ...]] = {
    "cmexport fp32": (),
    "cmexport --int8": ("--int8",),
    "cmexport --int8 --budget-latency 0.5": ("--budget-latency", "0.5"),
    "cmexport --int8 --budget-latency 0.6": ("--budget-latency", "0.6"),
    "cmexport --int8 --budget-db 57": ("--budget-db", "57"),
    "cmexport --int8 --budget-db 60": ("--budget-db", "60"),
    "cmexport --int8 --budget-db 63": ("--budget-db", "63"),
    "cmexport --int8 --ep openvino (portable pairs)": ("--int8", "--ep", "openvino"),
}
CALIBRATION_PICTURES = 256
ROUNDS = 8
GENERATIONS = 4
TURN_RUNS = 12


@dataclass(frozen=True)
class Row:
    """One file; `ratio` and its quartiles are to the naive export's time in the same round, `ms` the median time."""

    name: str
    ms: float
    ratio: float
    lower: float
    upper: float
    mean_db: float | None
    worst_db: float | None
    percentile_1_db: float | None
    frechet: float | None
    megabytes: float


def make(
    checkpoint: Path, folder: Path, chosen: Sequence[str]
) -> tuple[dict[str, Path], HostLoop, tuple[int, ...], int]:
    """All files by name, the naive one first, what runs the naive one, its input's shape and the number of classes."""
    subject = SUBJECTS["demo"]
    environment = child_environment(2)
    prepare = [sys.executable, "-m", "benchmarks.harness.prepare", subject.name, "1", str(folder)]
    subprocess.run([*prepare, "work", "naive-diffusers"], check=True, env=environment, stdout=subprocess.DEVNULL)
    work = json.loads(path_of(folder, "work").read_text(encoding="utf-8"))
    loop = HostLoop(**work["loop"])
    files = {NAIVE: path_of(folder, "naive-diffusers")}
    for name, (kind, symmetric) in PLAIN.items():
        files[name] = folder / f"{name.replace(' ', '-')}.onnx"
        quantize_plainly(files[NAIVE], files[name], kind, symmetric, loop, work["shape"], work["classes"])
    for number, (name, options) in enumerate(EXPORTS.items()):
        if chosen and name not in chosen and name != "cmexport fp32":
            continue
        print(f"export: {name}", file=sys.stderr, flush=True)
        out = folder / str(number)
        command = [sys.executable, "-m", "cmexport", "onnx", str(checkpoint), *options, "--seeds", "8", "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(out.glob("*/model.onnx"))
        if done.returncode not in (0, 4) or not found:
            raise SystemExit(f"{name}: {done.stderr.strip()}")
        files[name] = found[0]
    return files, loop, tuple(work["shape"]), work["classes"]


def quantize_plainly(
    naive: Path, path: Path, kind: str, symmetric: bool, loop: HostLoop, shape: Sequence[int], classes: int
) -> None:
    """ONNX Runtime's own static quantization of the naive export, as its documentation shows it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._given = iter(network_inputs(loop, shape, classes, range(20_000, 20_000 + CALIBRATION_PICTURES)))

        def get_next(self):
            return next(self._given, None)

    quantize_static(
        str(naive),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=getattr(QuantType, kind),
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": False},
    )


def unit_noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """The picture's noise, float32."""
    return np.random.default_rng(seed).standard_normal(tuple(shape), dtype=np.float32)


def network_inputs(
    loop: HostLoop, shape: Sequence[int], classes: int, seeds: Sequence[int]
) -> Iterator[dict[str, np.ndarray]]:
    """What the naive export is fed for each seed."""
    for seed in seeds:
        x = unit_noise(shape, seed) * np.float32(loop.sigma * loop.c_in)
        yield {
            "sample": x,
            "timestep": np.array([loop.c_noise], np.float32),
            "class_labels": np.array([seed % classes]),
        }


def pictures(path: Path, loop: HostLoop, naive: bool, shape: Sequence[int], classes: int, count: int) -> np.ndarray:
    """(count, C, H, W) float32 in [-1, 1], seeds 0 to count - 1."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    drawn = []
    if naive:
        for seed, given in enumerate(network_inputs(loop, shape, classes, range(count))):
            x = unit_noise(shape, seed) * np.float32(loop.sigma)
            picture = np.float32(loop.c_skip) * x + np.float32(loop.c_out) * session.run(None, given)[0]
            drawn.append(picture.clip(-1, 1) if loop.clamp else picture)
    else:
        for seed in range(count):
            given = {"noise": unit_noise(shape, seed), "label": np.array([seed % classes])}
            drawn.append(session.run(None, given)[0])
    return np.concatenate(drawn)


def latencies(files: dict[str, Path], loop: HostLoop, shape: tuple[int, ...], classes: int, threads: int):
    """Median milliseconds and the ratios to the naive export, turn by turn; several generations of processes."""
    plain = {NAIVE, *PLAIN}
    specs = {
        name: EngineSpec(
            name, "onnxruntime", str(path), shape, classes, threads, host_loop=loop if name in plain else None
        )
        for name, path in files.items()
    }
    times: dict[str, dict[int, float]] = {name: {} for name in files}
    number = 0
    for generation in range(GENERATIONS):
        with ExitStack() as stack:
            alive = {n: stack.enter_context(EngineProcess(s, child_environment(threads))) for n, s in specs.items()}
            for order in shuffled_orders(list(alive), ROUNDS, generation):
                for name in order:
                    times[name][number] = summarize(alive[name].run(TURN_RUNS)).median
                number += 1
        print(f"latency: {generation + 1} of {GENERATIONS}", file=sys.stderr, flush=True)
    steady = steady_rounds(times[NAIVE])
    return {
        name: (
            1e3 * summarize([times[name][number] for number in sorted(steady)]).median,
            summarize(ratios(times[name], times[NAIVE], steady)),
        )
        for name in files
    }


def rows(files, loop, shape, classes, count, judge: Jury | None, threads: int) -> list[Row]:
    """Measure everything: times first, while the machine has nothing else to do."""
    measured = latencies(files, loop, shape, classes, threads)
    exact = pictures(files["cmexport fp32"], loop, False, shape, classes, count)
    real = None if judge is None else moments(judge, exact)
    found = []
    for name, path in files.items():
        print(f"{count} pictures: {name}", file=sys.stderr, flush=True)
        scores = frechet = None
        ms, spread = measured[name]
        if name != "cmexport fp32":
            drawn = pictures(path, loop, name == NAIVE or name in PLAIN, shape, classes, count)
            scores = np.array([compare(a[None], b[None]).mean_db for a, b in zip(exact, drawn, strict=True)])
            frechet = None if real is None or judge is None else frechet_distance(moments(judge, drawn), real)
        found.append(
            Row(
                name,
                round(ms, 3),
                *(round(v, 4) for v in (spread.median, spread.lower, spread.upper)),
                *(
                    (None,) * 3
                    if scores is None
                    else (float(scores.mean()), float(scores.min()), float(np.percentile(scores, 1)))
                ),
                frechet,
                path.stat().st_size / 1e6,
            )
        )
    return found


def moments(judge: Jury, drawn: np.ndarray) -> Gaussian:
    """Mean and covariance of the pictures' features."""
    parts = (judge.judge(drawn[start : start + 50])[0] for start in range(0, len(drawn), 50))
    return add_up(Moments.of(part) for part in parts).gaussian


def markdown(found: Sequence[Row], machine: str, count: int) -> str:
    """The table of docs/quantization.md."""
    lines = [
        f"{machine}; {count} pictures, quartiles of the latency in brackets:",
        "",
        "| file | ms | of the naive export's time | mean dB | 1st percentile | worst | Fréchet distance | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        scores = [f"{v:.1f}" if v is not None else "" for v in (row.mean_db, row.percentile_1_db, row.worst_db)]
        distance = "" if row.frechet is None else f"{row.frechet:.1e}"
        time = f"{row.ratio:.3f} [{row.lower:.3f}, {row.upper:.3f}]"
        lines.append(
            f"| {row.name} | {row.ms:.1f} | {time} | {' | '.join(scores)} | {distance} | {row.megabytes:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--features", help="judge of the distribution, as `cmexport verify --features`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], choices=list(EXPORTS))
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "int8-frontier")
    chosen = parser.parse_args()
    checkpoint = SUBJECTS["demo"].checkpoint(Path())
    judge = None if chosen.features is None else load_jury(chosen.features)
    with tempfile.TemporaryDirectory(prefix="cmexport-frontier-") as folder:
        files, loop, shape, classes = make(checkpoint, Path(folder), chosen.only)
        found = rows(files, loop, shape, classes, chosen.count, judge, chosen.threads)
    machine = machine_line(describe_machine(chosen.threads))
    table = markdown(found, machine, chosen.count)
    points = [
        FrontierPoint(row.name, row.mean_db, row.ratio, row.megabytes) for row in found if row.mean_db is not None
    ]
    chosen.out.with_suffix(".svg").write_text(
        frontier_svg([p for p in points if p.name != NAIVE], "of the naive float32 export's time"), encoding="utf-8"
    )
    record = {"machine": machine, "pictures": chosen.count, "rows": [asdict(row) for row in found]}
    chosen.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
