"""Records of `benchmarks.cuda_text_to_image` as a section of `docs/benchmarks.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_INTRODUCTION = """## Text to image on a CUDA machine

By `python -m benchmarks.cuda_text_to_image` (its lines lie in `benchmarks/results/cuda/`): pipelines of Stable
Diffusion 1.5's and of SDXL's size with random weights, a tiny decoder, embedded guidance, batch 1, half precision.
*Pipeline* is diffusers' own call, prompt to picture. *Graph* is what cmexport lowers to every target, run by PyTorch;
*recorded* as one CUDA graph. Milliseconds are medians; *ratio* is taken to the pipeline within a round, with [lower,
upper quartile]. Joules are the board's own counter, above what it draws while it waits, and in all. *First* is from the
modules to the first picture: what compiling costs. The host is a virtual machine whose launches cost more than usual,
which is what eager rows mostly are. TensorRT for RTX refuses this processor (compute capability 9.0) and ONNX Runtime's
CUDA provider was not installed, so neither is here.
"""

_HEADER = ("engine", "ms", "ratio", "J a picture", "J in all", "dB", "first")


def cuda_section(folder: Path) -> str:
    """Return the section, or nothing where there are no records.

    Args:
        folder: with `*.jsonl`, one JSON object a line, as the benchmark prints them.
    """
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        return ""
    return "\n".join([_INTRODUCTION, *(_case(json.loads(line)) for line in lines)])


def _case(record: Mapping[str, Any]) -> str:
    steps = f"{record['steps']} step{'s' if record['steps'] > 1 else ''}"
    idle, engines = record["rows"]["idle"]["watts"], {k: v for k, v in record["rows"].items() if k != "idle"}
    rows = [
        f"### {record['gpu']}: {record['pipeline']}, {record['pixels']} x {record['pixels']}, {steps}",
        "",
        f"torch {record['torch']}. The graph: {record['operations']} operations, captured, rewritten and checked in "
        f"{record['graph_made_s']:.0f} s. Waiting, the board draws {idle:.0f} W. {record.get('note', '')}".rstrip(),
        "",
        "| " + " | ".join(_HEADER) + " |",
        "|---" + "|---:" * (len(_HEADER) - 1) + "|",
    ]
    refused = []
    for name, remark in record["remarks"].items():
        if name in engines:
            rows.append(_row(name, engines[name], remark.removesuffix(" to the first picture")))
        else:
            refused.append(f"- not run: {name}: {remark.removeprefix('refused: ')}")
    return "\n".join([*rows, "", *refused, *([""] if refused else [])])


def _row(name: str, row: Mapping[str, Any], first: str) -> str:
    ratio, low, high = row["ratio"]
    db = row.get("db_to_pipeline")
    cells = (
        f"**{name}**" if name.startswith("graph") else name,
        f"{row['ms']:.1f}",
        f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
        f"{row['joules']:.2f}",
        f"{row['joules_gross']:.2f}",
        "" if db is None else f"{db:.1f}",
        first,
    )
    return "| " + " | ".join(cells) + " |"
