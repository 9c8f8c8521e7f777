"""Which of several sets of weights is meant: the one `--weights` names, the averaged one of a certain pair, or none.

Averaged weights make the better pictures, and authors publish them. They are taken where exactly one averaged set
stands beside exactly one raw set of the same names and shapes; anything else is refused with the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cmexport.checkpoints.roles import AVERAGED
from cmexport.checkpoints.settings import Settings
from cmexport.checkpoints.weight_sets import WeightSet, complete_averages, same_weights
from cmexport.errors import CheckpointError, UsageError

SETTING = "weights"
"""Name of the setting that records which set was taken; `verify` hands it back."""


class UnknownWeightsError(UsageError):
    """`--weights` names a set that the checkpoint does not hold."""


class NamedValue(Protocol):
    """A setting, or a manifest's record of one."""

    @property
    def name(self) -> str:
        """The setting's name."""

    @property
    def value(self) -> object:
        """The setting's value."""


def chosen_weights(settings: Iterable[NamedValue]) -> str | None:
    """Return the set that a model was loaded with, to load it again; None where there was no choice."""
    return next((str(s.value) for s in settings if s.name == SETTING), None)


@dataclass(frozen=True)
class Candidate:
    """What is chosen between: a name, its role, and what agrees in a pair (names and shapes, or a configuration)."""

    name: str
    role: str
    kind: object


def pick(path: Path, candidates: Sequence[Candidate], what: str) -> tuple[int, str]:
    """Index of the averaged candidate of a certain pair, or of the only one, and the reason ("" for the only one).

    Raises:
        CheckpointError: there are several and nothing says which; the message lists them.
    """
    if len(candidates) == 1:
        return 0, ""
    raw = [i for i, c in enumerate(candidates) if c.role == "raw"]
    for role in (AVERAGED, "target"):
        better = [i for i, c in enumerate(candidates) if c.role == role]
        if len(better) == 1 and len(raw) == 1 and candidates[better[0]].kind == candidates[raw[0]].kind:
            return better[0], f"averaged, preferred to {shown(candidates[raw[0]].name)}"
        if better:
            break
    others = {c.role for c in candidates} - {"raw"}
    if len(raw) == 1 and others == {"backup"}:
        return raw[0], "the others are a backup"
    raise several(path, [c.name for c in candidates], what)


def several(path: Path, names: Sequence[str], what: str = "complete sets of weights") -> CheckpointError:
    """Return the refusal that lists what there is."""
    listed = ", ".join(shown(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
    example = next((name for name in names if name), "")
    return CheckpointError(f"{path}: holds {len(names)} {what}: {listed};\nsay which: --weights {example}")


def shown(name: str) -> str:
    """Return a set's name for people; the one without a name is the file's own."""
    return f"'{name}'" if name else "'.' (without a prefix)"


def choose_set(path: Path, sets: Sequence[WeightSet], wanted: str | None, settings: Settings) -> WeightSet:
    """One of the sets, recorded in the settings where there was a choice.

    Args:
        path: for messages.
        sets: at least one.
        wanted: as `--weights` names it; None leaves it to the rule above.
        settings: receives `weights`, with the reason as origin.

    Raises:
        CheckpointError: several sets and no certain pair, or one that can't be read, or weights of other networks
            beside the only one.
        UnknownWeightsError: there is no set of that name.
    """
    sets = complete_averages(sets)
    if wanted is not None:
        chosen = sets[named(path, [Candidate(s.name, s.role, None) for s in sets], wanted)]
        settings.inferred(SETTING, chosen.name or ".", f"--weights {wanted}")
    else:
        chosen = _default(path, sets, settings)
    if chosen.problem:
        raise CheckpointError(f"{path}: the weights {shown(chosen.name)} can't be read: {chosen.problem}")
    return chosen


def _default(path: Path, sets: Sequence[WeightSet], settings: Settings) -> WeightSet:
    # Training code often holds one network under two names: `model` is `ema.online_model`.
    distinct = [s for i, s in enumerate(sets) if not any(same_weights(s, other) for other in sets[:i])]
    unread = next((s for s in distinct if s.problem and s.role == AVERAGED), None)
    if unread is not None:
        # Raw weights are no substitute for averaged ones that can't be read, unless the user says so.
        other = next((s.name or "." for s in distinct if not s.problem), "")
        raise CheckpointError(
            f"{path}: holds averaged weights {shown(unread.name)}, but {unread.problem};\n"
            f"save them as a state dict, or take the others: --weights {other}"
        )
    candidates = [Candidate(s.name, s.role, {k: v.shape for k, v in s.tensors.items()}) for s in distinct]
    index, reason = pick(path, candidates, "complete sets of weights")
    chosen = distinct[index]
    if reason:
        settings.inferred(SETTING, chosen.name or ".", reason)
    elif chosen.strangers:
        raise CheckpointError(
            f"{path}: weights start with '{chosen.prefix}', but {len(chosen.strangers)} don't, e.g. "
            f"{chosen.strangers[0]};\nsave the weights of one network, or take these alone: --weights {chosen.name}"
        )
    return chosen


def named(path: Path, candidates: Sequence[Candidate], wanted: str) -> int:
    """Index of the candidate that a text means: its name, a part of its name at either end, or `ema` for the average.

    Raises:
        UnknownWeightsError: none, or several.
    """
    text = wanted.strip().rstrip("./")
    names = ["" if c.name == "." else c.name for c in candidates]
    if text in names:
        return names.index(text)
    for fits in (
        lambda name: name.endswith(("." + text, "/" + text)),
        lambda name: name.startswith((text + ".", text + "/")),
        lambda name: f".{text}." in f".{name.replace('/', '.')}.",
    ):
        found = [i for i, name in enumerate(names) if text and fits(name)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    else:
        found = [i for i, c in enumerate(candidates) if text == "ema" and c.role == AVERAGED]
        if len(found) == 1:
            return found[0]
    listed = ", ".join(shown(name) for name in names)
    problem = "means several" if found else "there is no such set of weights"
    raise UnknownWeightsError(f"--weights {wanted}: {problem} in {path}; it holds {listed}")
