"""Which engines run on which case, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.specs import EngineSpec, HostLoop, path_of

NAIVE = "naive export of diffusers' UNet, ONNX Runtime"
EAGER = "PyTorch eager"


@dataclass(frozen=True)
class CasePlan:
    """One model at one batch size.

    Attributes:
        subject: key into `subjects.SUBJECTS`.
        batch: pictures per run.
        engines: keys into `ENGINES`, in the order of the table.
        generations: how often every engine gets a fresh process; each one is also a measured load. Two processes of
            one file differ by up to 3 % (placement in memory), so latencies need several as well.
        rounds: rounds of turns per generation.
        turn_s: a turn repeats its run until about this much time has passed, at least once.
        costly_generations: generations that engines which start slowly take part in.
        weight: share of the time that is left after making files, relative to the other cases.
        product_edge: side of the large matrix product that is called the machine's peak.
        together: all engines loaded at once; otherwise one at a time, loaded afresh for each turn.
    """

    subject: str
    batch: int
    engines: tuple[str, ...]
    generations: int
    rounds: int
    turn_s: float
    costly_generations: int = 1
    together: bool = True
    weight: float = 1.0
    product_edge: int = 2048


@dataclass(frozen=True)
class EngineTemplate:
    """An engine before it meets a case; `made` names what `prepare` must make for it."""

    name: str
    kind: str
    made: str
    host_loop: bool = False
    graph: bool = True
    costly: bool = False
    batched: bool = True
    arithmetic: str = "fp32"
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


_F32, _BF16 = {"precision": "f32"}, {"precision": "bf16"}
ENGINES: Mapping[str, EngineTemplate] = {
    "eager": EngineTemplate(EAGER, "pytorch", "checkpoint", graph=False, costly=True),
    "compile": EngineTemplate(
        "torch.compile (inductor)",
        "pytorch",
        "checkpoint",
        graph=False,
        costly=True,
        options={"compile": True},
        note="load includes the first run, with inductor's cache filled by an earlier process",
    ),
    "pipeline": EngineTemplate(
        "diffusers pipeline, 1 step",
        "diffusers",
        "pipeline",
        graph=False,
        costly=True,
        note="loading maps the weights; the first run reads them",
    ),
    "naive": EngineTemplate(NAIVE, "onnxruntime", "naive-diffusers", host_loop=True),
    "naive-onnxsim": EngineTemplate(
        "naive export of diffusers' UNet + onnxsim, ONNX Runtime", "onnxruntime", "naive-onnxsim", host_loop=True
    ),
    "naive-ours": EngineTemplate("naive export of our UNet, ONNX Runtime", "onnxruntime", "naive-ours", host_loop=True),
    "openvino-naive": EngineTemplate(
        "naive export of diffusers' UNet, OpenVINO f32", "openvino", "naive-diffusers", host_loop=True, options=_F32
    ),
    "openvino-naive-bf16": EngineTemplate(
        "naive export of diffusers' UNet, OpenVINO bf16",
        "openvino",
        "naive-diffusers",
        host_loop=True,
        arithmetic="bf16",
        options=_BF16,
    ),
    "fp32": EngineTemplate("**cmexport fp32**, ONNX Runtime", "onnxruntime", "fp32"),
    "fp32-label": EngineTemplate(
        "**cmexport fp32, label baked in**, ONNX Runtime", "onnxruntime", "fp32-label", batched=False
    ),
    "fp16": EngineTemplate(
        "**cmexport fp16**, ONNX Runtime",
        "onnxruntime",
        "fp16",
        note="a storage format on CPUs: ONNX Runtime widens to fp32",
    ),
    "openvino": EngineTemplate("**cmexport fp32 for OpenVINO**, OpenVINO f32", "openvino", "openvino", options=_F32),
    "openvino-bf16": EngineTemplate(
        "**cmexport fp32 for OpenVINO**, OpenVINO bf16", "openvino", "openvino", arithmetic="bf16", options=_BF16
    ),
}

_ALL = tuple(ENGINES)
_BATCH = tuple(k for k in _ALL if ENGINES[k].batched and k != "compile")
# Ten minutes are not enough for everything. Left out at batch 8: torch.compile, which compiles for 1.5 minutes per
# batch size. Left out for the large network as well: whatever needs another export of it (half a minute each).
_LARGE = ("eager", "pipeline", "naive", "openvino-naive", "openvino-naive-bf16", "fp32")

# Upper limits; the time left decides how many generations there are, see `measure.measure_case`.
FULL: tuple[CasePlan, ...] = (
    CasePlan("demo", 1, _ALL, generations=5, rounds=8, turn_s=0.2, weight=3),
    CasePlan("demo", 8, _BATCH, generations=3, rounds=4, turn_s=0.4),
    CasePlan("imagenet64", 1, _LARGE, generations=3, rounds=1, turn_s=3.0, weight=2, together=False),
)
QUICK: tuple[CasePlan, ...] = (CasePlan("demo", 1, _ALL, generations=2, rounds=4, turn_s=0.08),)
TINY: tuple[CasePlan, ...] = (
    CasePlan(
        "tiny", 1, ("eager", "naive", "naive-onnxsim", "fp32"), generations=1, rounds=2, turn_s=0.01, product_edge=256
    ),
)


def needed(plan: CasePlan) -> tuple[str, ...]:
    """What must be made for a case, each thing once."""
    made = [ENGINES[key].made for key in plan.engines if ENGINES[key].made != "checkpoint"]
    return ("work", *dict.fromkeys(made))


def specs_for(
    plan: CasePlan, work: Mapping[str, Any], folder: Path, checkpoint: Path, overrides: Mapping[str, str], threads: int
) -> list[EngineSpec]:
    """The engines of a case, pointed at their files."""
    shape = tuple(work["shape"])
    assert len(shape) == 4
    loop = HostLoop(**work["loop"])
    specs = []
    for key in plan.engines:
        engine = ENGINES[key]
        specs.append(
            EngineSpec(
                name=engine.name,
                kind=engine.kind,
                path=str(checkpoint if engine.made == "checkpoint" else path_of(folder, engine.made)),
                shape=shape,
                classes=work["classes"],
                threads=threads,
                arithmetic=engine.arithmetic,
                host_loop=loop if engine.host_loop else None,
                options=engine.options,
                overrides=dict(overrides),
                costly=engine.costly,
                graph=engine.graph,
                note=engine.note,
            )
        )
    return specs
