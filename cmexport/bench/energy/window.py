"""From a trace to millijoules per picture, or to the reason why there is no such figure.

Power is measured between the first and the last movement of the counter inside a window: a counter that moves every
100 ms, read at the window's edges, would be wrong by up to one movement at each. Idle power is the median over three
parts of each side of the runs; not over single movements, whose times are known only to one reading (a counter of
100 ms read every 30 ms then gives 89 W for 80). The confidence interval adds the scatter of the active power (over ten
parts of the windows), that of the idle power, and half the disagreement of the two idle sides.

Rules (bench/energy, docs/benchmarking.md): at least 50 movements; idle on both sides; idles that differ by more than
10 % of the active power, or a net of zero or less, void the figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmexport.bench.energy.trace import EnergyTrace, Span
from cmexport.bench.schema import EnergyRecord, Grade

IDLE_DISAGREEMENT = 0.10
PARTS = 10
IDLE_PARTS = 3
# Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom.
_STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_LEAST_IDLE_S = 2.0
_LEAST_IDLE_UPDATES = 5

GRADES: dict[Grade, str] = {
    "A": "an external meter, or a rail or counter on the die",
    "B": "a SoC's own estimates",
    "C": "a battery gauge",
    "D": "no figure",
}

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Steps:
    """Movements of the counter in one span: their times and the energy they reached."""

    t_s: _Floats
    mj: _Floats

    @property
    def updates(self) -> int:
        return max(len(self.t_s) - 1, 0)

    @property
    def seconds(self) -> float:
        return float(self.t_s[-1] - self.t_s[0]) if self.updates else 0.0

    @property
    def joules(self) -> float:
        return float(self.mj[-1] - self.mj[0]) / 1e3 if self.updates else 0.0


def no_energy(reason: str, **known: object) -> EnergyRecord:
    """Return a record without a figure."""
    return EnergyRecord.known(reason, grade="D", grade_rule=f"D: {GRADES['D']}: {reason}"[:500], **known)


def energy_from_trace(trace: EnergyTrace) -> EnergyRecord:
    """Millijoules per picture with grade and interval; or grade D, with whatever was measured and the reason."""
    known: dict[str, object] = {"source": trace.source, "rails": trace.rails}
    if trace.void:
        return no_energy(trace.void, **known)
    if not trace.active or trace.images == 0:
        return no_energy("no picture was made while energy was read", **known)
    total: _Floats = np.sum([trace.mj[rail] for rail in trace.rails], axis=0)
    times = np.asarray(trace.t_s)
    active = [_steps(times, total, span) for span in trace.active]
    window_s = sum(span.end_s - span.start_s for span in trace.active)
    updates = sum(steps.updates for steps in active)
    known |= {"window_s": window_s, "updates": updates, "images": trace.images}
    if updates:
        known["interval_ms"] = float(np.median(np.concatenate([np.diff(s.t_s) for s in active]))) * 1e3
    if updates < trace.wanted_updates:
        return no_energy(
            f"the counter moved {updates} times in {window_s:.3g} s, {trace.wanted_updates} are needed: "
            "measure longer with --seconds",
            **known,
        )
    active_w = sum(s.joules for s in active) / sum(s.seconds for s in active)
    gross = active_w * window_s * 1e3 / trace.images
    known |= {"active_w": active_w, "mj_per_image_gross": gross}
    before, after = (_idle(times, total, span) for span in (trace.idle_before, trace.idle_after))
    if isinstance(before, str) or isinstance(after, str):
        return no_energy(before if isinstance(before, str) else str(after), **known)
    before_w, after_w = float(np.median(before)), float(np.median(after))
    known |= {"idle_before_w": before_w, "idle_after_w": after_w}
    if abs(after_w - before_w) > IDLE_DISAGREEMENT * abs(active_w):
        return no_energy(
            f"idle power was {before_w:.3g} W before and {after_w:.3g} W after, more than 10 % of {active_w:.3g} W "
            "apart: something else ran, or the device was still waking up or cooling down",
            **known,
        )
    idle_w = float(np.median([*before, *after]))
    scale = window_s * 1e3 / trace.images
    net = (active_w - idle_w) * scale
    if net <= 0:
        return no_energy(f"the runs drew no more than idle ({idle_w:.3g} W): too short or too weak a signal", **known)
    half = _half_interval_w(active, [*before, *after], before_w - after_w) * scale
    return EnergyRecord.known(
        "the windows' parts are too few for an interval",
        **known,
        mj_per_image_net=net,
        ci95_mj_per_image=(net - half, net + half) if math.isfinite(half) else None,
        grade=trace.grade,
        grade_rule=f"{trace.grade}: {GRADES[trace.grade]}; {updates} updates in {window_s:.3g} s; idle on both sides "
        f"within 10 % of active",
    )


def _steps(times: _Floats, total: _Floats, span: Span | None) -> _Steps:
    """Return the readings inside `span` at which the counter had moved."""
    if span is None:
        return _Steps(np.empty(0), np.empty(0))
    moved = np.concatenate([[False], np.diff(total) != 0])
    inside = moved & (times >= span.start_s) & (times <= span.end_s)
    return _Steps(times[inside], total[inside])


def _idle(times: _Floats, total: _Floats, span: Span | None) -> list[float] | str:
    """Idle power in watts, of each part of one side; or why it can't be told."""
    if span is None:
        return "idle power was not measured on both sides of the runs"
    length = span.end_s - span.start_s
    if length < _LEAST_IDLE_S:
        return f"idle was watched for {length:.2g} s; {_LEAST_IDLE_S:.0f} s are needed"
    steps = _steps(times, total, span)
    if steps.updates < _LEAST_IDLE_UPDATES:
        return f"the counter moved {steps.updates} times in {length:.2g} s of idle; {_LEAST_IDLE_UPDATES} are needed"
    return _parts(steps, IDLE_PARTS)


def _half_interval_w(active: Sequence[_Steps], idle: Sequence[float], disagreement_w: float) -> float:
    """Half the 95 % interval of active minus idle power, in watts."""
    parts = [part for steps in active for part in _parts(steps, max(1, PARTS // len(active)))]
    if len(parts) < 2:
        return math.inf
    # A median scatters 1.2533 times as much as a mean.
    errors = (_half_interval(parts), 1.2533 * _half_interval(idle), 0.5 * disagreement_w)
    return math.hypot(*errors)


def _half_interval(values: Sequence[float]) -> float:
    freedom = min(len(values) - 1, len(_STUDENT_95))
    return _STUDENT_95[freedom - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _parts(steps: _Steps, wanted: int) -> list[float]:
    """Mean power of `wanted` stretches of equally many movements."""
    edges = np.unique(np.linspace(0, steps.updates, wanted + 1).astype(int)) if steps.updates else np.empty(0, int)
    return [
        float((steps.mj[b] - steps.mj[a]) / 1e3 / (steps.t_s[b] - steps.t_s[a])) for a, b in itertools.pairwise(edges)
    ]
