"""How steps came out, and the one exit code of all."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from cmexport.recipes.children import Ended
from cmexport.recipes.steps import Step

Status = Literal["done", "kept", "gate", "skipped", "failed", "waiting"]
"""kept: done by an earlier run. gate: written, a gate failed. waiting: not begun, something it needs failed."""

GATE, BACKEND, DEFECT = 4, 5, 1


@dataclass(frozen=True)
class Outcome:
    """How a step came out.

    Attributes:
        step: which one.
        status: see `Status`.
        code: the exit code it stands for; 0 for a step that is no reason to fail.
        message: why, where it isn't done.
        entries: what it wrote, relative to the output folder.
        facts: "parity_db" (None: identical), "gate_db", "size_bytes", where known; "assumed" and "self_check" where
            the checkpoint left something to guess; "weights" where one of several sets was taken unasked.
        seconds: how long it took, also where that was in an earlier run; None: it did not run.
    """

    step: Step
    status: Status
    code: int = 0
    message: str = ""
    entries: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    seconds: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether others can use what it wrote."""
        return self.status in ("done", "kept") and self.code == 0


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0; else the code of the first step that failed, a failed gate only where nothing worse happened."""
    codes = [outcome.code for outcome in outcomes if outcome.code]
    return next((code for code in codes if code != GATE), GATE if codes else 0)


def of_failure(step: Step, ended: Ended) -> Outcome:
    """The outcome of a process that ended with neither 0 nor 4."""
    message = ended.complaint
    if ended.code == BACKEND and step.optional:
        return Outcome(step, "skipped", 0, message, seconds=ended.seconds)
    if ended.code < 0:
        name = _signal_name(-ended.code)
        hint = " (out of memory?)" if -ended.code == signal.SIGKILL else ""
        return Outcome(step, "failed", BACKEND, f"killed by {name}{hint}", seconds=ended.seconds)
    code = ended.code or DEFECT
    return Outcome(step, "failed", code, message or f"ended with code {ended.code}", seconds=ended.seconds)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def facts_of(step: Step, printed: Mapping[str, Any]) -> dict[str, Any]:
    """Parity and size from what a step printed as JSON."""
    facts: dict[str, Any] = {}
    if assumed := printed.get("assumed"):
        facts["assumed"] = assumed
    manifest = printed.get("manifest")
    if isinstance(manifest, dict) and manifest.get("self_check"):
        facts["self_check"] = manifest["self_check"]
    if step.kind == "export" and isinstance(manifest, dict):
        # Said on the stderr of the step itself, which only its log keeps.
        taken = [s for s in manifest["checkpoint"].get("settings", ()) if s["name"] == "weights"]
        if taken and not str(taken[0]["origin"]).startswith("--weights"):
            facts["weights"] = {"value": taken[0]["value"], "origin": taken[0]["origin"]}
        facts["size_bytes"] = sum(
            f["bytes"] for f in manifest["files"] if f["role"] not in ("preview", "golden", "layers", "frontier")
        )
        graphs = [manifest, *manifest.get("functions", ())]
        parities = [graph["parity"] for graph in graphs if graph.get("parity") is not None]
        if parities:
            shipped = [parity["rungs"][-1]["difference"] for parity in parities]
            known = [d["mean_db"] for d in shipped if d["mean_db"] is not None]
            facts["identical"] = all(d["identical"] for d in shipped)
            facts["non_finite"] = sum(d["non_finite"] for d in shipped)
            facts["parity_db"] = min(known, default=None)
            facts["gate_db"] = max(parity["applied_gate_db"] for parity in parities)
    records = printed.get("records")
    if step.kind == "bench" and isinstance(records, list):
        facts["records"] = len(records)
        facts["failed"] = [r["artifact"]["name"] for r in records if r.get("failure") is not None]
        facts["off"] = [r["artifact"]["name"] for r in records if r.get("parity", {}).get("passed") is False]
        facts["busy"] = [r["artifact"]["name"] for r in records if "busy" in r.get("validity", {}).get("flags", ())]
        facts["p50_ms"] = {
            r["artifact"]["name"]: r["timing_ms"]["p50"] for r in records if r["timing_ms"].get("p50") is not None
        }
    return facts


def misses_gate(facts: Mapping[str, Any], gate_db: float | None) -> str | None:
    """Why an artefact that passed cmexport's own gate fails the recipe's; None where it doesn't."""
    if gate_db is None or facts.get("identical"):
        return None
    found = facts.get("parity_db")
    if found is None:
        return f"the recipe asks for {gate_db:g} dB, and no parity is known"
    return None if found >= gate_db else f"{found:.1f} dB, the recipe asks for {gate_db:g}"
