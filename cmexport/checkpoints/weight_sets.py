"""Every complete set of weights that a file holds: the raw network, averaged copies of it, other networks beside it.

A training file rarely holds one state dict alone. Averaged weights lie in an entry of their own (`ema`), under a prefix
(`ema_model.`), under names without dots (LitEma: `model_ema.input_blocks00weight`) or as a bare list in the order of
`module.parameters()` (`shadow_params`). All of these are found here; `choosing.py` decides between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cmexport.checkpoints.parameter_lists import name_list
from cmexport.checkpoints.prefixes import is_counter, without_wrappers
from cmexport.checkpoints.roles import AVERAGED, role_of
from cmexport.checkpoints.sniff import FAMILIES

_MAX_DEPTH = 6
# What optimizers keep has the shapes of weights and is none; NeMo keeps its average among them, as `ema`.
_OPTIMIZER = re.compile(r"^(opt|optim|optimizers?|lr)($|[^a-z])|sched|scaler", re.IGNORECASE)
_NUMBERED = re.compile(r"^(.*?)(\d{1,6})$")
# A list this short is a list of something else.
_MIN_LIST = 4


@dataclass(frozen=True)
class WeightSet:
    """One complete set of weights.

    Attributes:
        name: what `--weights` calls it: entries and prefix joined by dots; "" for a bare state dict.
        format: of `sniff.FAMILIES`.
        tensors: by name, without any prefix.
        role: see `roles.role_of`.
        within: entries of the file that lead to it, joined by dots; None at the top.
        prefix: what stood in front of its names.
        strangers: names beside it that belong to no set and are no counters.
        problem: why it can't be read, where it can't; `tensors` is empty then.
    """

    name: str
    format: str
    tensors: Mapping[str, Tensor]
    role: str
    within: str | None = None
    prefix: str = ""
    strangers: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class _Node:
    """A dictionary or list of tensors in the file, and the keys that lead to it."""

    path: tuple[str, ...]
    value: Mapping[str, Tensor] | Sequence[Tensor]


def weight_sets(content: Any) -> tuple[WeightSet, ...]:
    """All complete sets of weights in a file's content, in the order in which they stand; none for another model."""
    nodes = list(_nodes(content, (), _MAX_DEPTH))
    dicts = [(node.path, node.value) for node in nodes if isinstance(node.value, Mapping)]
    found: list[WeightSet] = []
    bare: list[tuple[tuple[str, ...], Mapping[str, Tensor]]] = []
    for path, tensors in dicts:
        sets = sets_in(tensors, path)
        found += sets
        if not sets:
            bare.append((path, tensors))
    if not found:
        return ()
    # What recognized sets explain: the same names without dots, and lists in their order.
    for path, tensors in bare:
        found += _dotless(tensors, [s for s in found if not s.problem], path, list(tensors))
    orders = [(s, tensors) for s in found for tensors in _orders(s, dicts)]
    for node in nodes:
        if not isinstance(node.value, Mapping):
            found += _listed(node.path, node.value, orders)
    for path, tensors in bare:
        for prefix, members in _numbered(tensors):
            found += _listed((*path, prefix), members, orders)
    known = {s.within for s in found}
    few = min(len(s.tensors) for s in found if not s.problem) // 2
    found += [
        _unreadable(path, tensors, found[0])
        for path, tensors in bare
        if len(tensors) >= few and _is_unread_average(path, known)
    ]
    return tuple(_lightning_roles(found, content))


def _nodes(content: Any, path: tuple[str, ...], depth: int, optimizer: bool = False) -> Iterator[_Node]:
    if depth == 0:
        return
    if isinstance(content, Mapping):
        tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        by_number = {key: value for key, value in content.items() if type(key) is int and isinstance(value, Tensor)}
        if tensors and not optimizer:
            yield _Node(path, tensors)
        if len(by_number) >= _MIN_LIST and sorted(by_number) == list(range(len(by_number))) and not optimizer:
            yield _Node(path, [by_number[i] for i in range(len(by_number))])
        if "param_groups" in content:
            optimizer = True
        for key, value in content.items():
            if isinstance(value, Mapping | list | tuple):
                inside = (optimizer or bool(_OPTIMIZER.search(str(key)))) and role_of((str(key),)) != AVERAGED
                yield from _nodes(value, (*path, str(key)), depth - 1, inside)
    elif isinstance(content, list | tuple):
        if len(content) >= _MIN_LIST and all(isinstance(item, Tensor) for item in content):
            if not optimizer:
                yield _Node(path, content)
        elif len(content) <= 64:
            for index, value in enumerate(content):
                if isinstance(value, Mapping | list | tuple):
                    yield from _nodes(value, (*path, str(index)), depth - 1, optimizer)


def sets_in(tensors: Mapping[str, Tensor], path: tuple[str, ...] = ()) -> list[WeightSet]:
    """Return the sets in one dictionary, told apart by the prefixes in front of their names."""
    prefixes = _prefixes(tensors)
    if not prefixes:
        unwrapped = {without_wrappers(key): value for key, value in tensors.items()}
        if len(unwrapped) != len(tensors):
            return []
        tensors, prefixes = unwrapped, _prefixes(unwrapped)
    made: list[WeightSet] = []
    for prefix, kind in prefixes.items():
        longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        own = {
            without_wrappers(key[len(prefix) :]): value
            for key, value in tensors.items()
            if key.startswith(prefix) and not (longer and key.startswith(longer)) and not is_counter(key, value)
        }
        made.append(_made(kind, own, path, prefix))
    beside = [
        key
        for key, value in tensors.items()
        if not key.startswith(tuple(prefix for prefix in prefixes if prefix)) and not is_counter(key, value)
    ]
    numbered = list(_numbered({key: tensors[key] for key in beside}))
    lists = [
        named
        for prefix, members in numbered
        for named in _listed((*path, prefix), members, [(s, s.tensors) for s in made])
    ]
    dotless = [s for s in _dotless(tensors, made, path, beside) if s.prefix]
    explained = tuple([s.prefix for s in dotless] + [prefix for prefix, _ in numbered])
    strangers = tuple(key for key in beside if not (explained and key.startswith(explained)))
    if "" not in prefixes:
        return [replace(s, strangers=strangers) for s in made] + dotless + lists
    # Names without a prefix: what the network does not have is told by the strict reading that follows.
    bare = next(s for s in made if not s.prefix)
    kept = {key: value for key, value in bare.tensors.items() if not (explained and key.startswith(explained))}
    return [replace(s, tensors=kept) if s is bare else s for s in made] + dotless + lists


def _made(kind: str, tensors: Mapping[str, Tensor], path: tuple[str, ...], prefix: str) -> WeightSet:
    parts = (*path, *(part for part in prefix.rstrip("._").split(".") if part))
    return WeightSet(
        name=".".join(parts),
        format=kind,
        tensors=tensors,
        role=role_of(parts),
        within=".".join(path) or None,
        prefix=prefix,
    )


def _prefixes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Prefixes of complete networks, and the format of each."""
    found: dict[str, str] = {}
    for known in FAMILIES.values():
        for key in tensors:
            if key == known.anchor or key.endswith("." + known.anchor):
                prefix = key[: -len(known.anchor)]
                if prefix not in found and all(prefix + name in tensors for name in known.also):
                    found[prefix] = known.name
    return found


def _dotless(
    tensors: Mapping[str, Tensor], bases: Sequence[WeightSet], path: tuple[str, ...], names: Sequence[str]
) -> list[WeightSet]:
    """Find copies of known sets whose names lost their dots: LitEma's `model_ema.out2bias`, mmcv's `ema_out_2_bias`."""
    left = set(names)
    made: list[WeightSet] = []
    for base in bases:
        for instead in ("", "_"):
            spelled = {name.replace(".", instead): name for name in base.tensors if not _is_buffer(name)}
            if not spelled or len(spelled) != sum(not _is_buffer(name) for name in base.tensors):
                continue
            first = next(iter(spelled))
            for prefix in [key[: -len(first)] for key in sorted(left) if key.endswith(first)]:
                if not all(
                    prefix + short in left and tensors[prefix + short].shape == base.tensors[name].shape
                    for short, name in spelled.items()
                ):
                    continue
                renamed = {name: tensors[prefix + short] for short, name in spelled.items()}
                left -= {prefix + short for short in spelled}
                made.append(_made(base.format, _with_buffers(renamed, base.tensors), path, prefix))
    return [s for s in made if s.name]


def _orders(
    found: WeightSet, dicts: Sequence[tuple[tuple[str, ...], Mapping[str, Tensor]]]
) -> Iterator[Mapping[str, Tensor]]:
    """Orders of parameters that a list may follow: of the network, then of the whole module that holds it."""
    if found.problem:
        return
    yield found.tensors
    for path, tensors in dicts:
        if found.prefix and (".".join(path) or None) == found.within:
            yield tensors


def _listed(
    path: tuple[str, ...], values: Sequence[Tensor], orders: Sequence[tuple[WeightSet, Mapping[str, Tensor]]]
) -> list[WeightSet]:
    """Take a list of tensors as a set, if its name says that it holds weights and its shapes fit a known order."""
    parts = tuple(part.rstrip(".") for part in path)
    role = role_of(parts)
    if role == "raw" and not re.search(r"param|weight", parts[-1] if parts else "", re.IGNORECASE):
        return []
    name, within = ".".join(parts), ".".join(parts)
    problem = ""
    for base, tensors in orders:
        named, reason = name_list(tensors, values)
        if named is None:
            problem = problem or f"{reason} (compared with {f'`{base.name}`' if base.name else 'the named weights'})"
            continue
        own = named
        if tensors is not base.tensors:
            own = {key[len(base.prefix) :]: value for key, value in named.items() if key.startswith(base.prefix)}
        own = {without_wrappers(key): value for key, value in own.items()}
        return [WeightSet(name, base.format, _with_buffers(own, base.tensors), role, within)]
    if not orders or role == "raw":
        return []
    return [WeightSet(name, orders[0][0].format, {}, role, within, problem=problem)]


def _numbered(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """Find lists that lie in a dictionary as `shadow_params.0`, `shadow_params.1`, ...; only averaged ones."""
    groups: dict[str, dict[int, Tensor]] = {}
    for key, value in tensors.items():
        match = _NUMBERED.match(key)
        if match is not None and match[1] and role_of(tuple(match[1].rstrip("._").split("."))) in (AVERAGED, "backup"):
            groups.setdefault(match[1], {})[int(match[2])] = value
    for prefix, members in groups.items():
        if len(members) >= _MIN_LIST and sorted(members) == list(range(len(members))):
            yield prefix.rstrip("._"), [members[i] for i in range(len(members))]


def _is_buffer(name: str) -> bool:
    """Whether a name is a buffer of these networks, which averages of parameters leave out."""
    return name.endswith(("resample_filter", "map_noise.freqs", ".freqs", "num_batches_tracked"))


def _with_buffers(parameters: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averaged parameters with the buffers of the network that they are an average of, in its order."""
    kept = [name for name in base if name in parameters or _is_buffer(name)]
    return {name: parameters[name] if name in parameters else base[name] for name in kept}


def complete_averages(sets: Sequence[WeightSet]) -> list[WeightSet]:
    """Return the sets, averaged ones with the buffers that only their raw network has."""
    raw = [s for s in sets if s.role == "raw" and not s.problem]
    result = []
    for found in sets:
        base = next(
            (r for r in raw if found.role != "raw" and not found.problem and set(found.tensors) < set(r.tensors)),
            None,
        )
        if base is not None and all(_is_buffer(name) for name in set(base.tensors) - set(found.tensors)):
            found = replace(found, tensors=_with_buffers(found.tensors, base.tensors))
        result.append(found)
    return result


def _is_unread_average(path: tuple[str, ...], known: set[str | None]) -> bool:
    named = ".".join(path)
    read = any(within is not None and (within == named or within.startswith(named + ".")) for within in known)
    return bool(path) and role_of(path) == AVERAGED and not read


def _unreadable(path: tuple[str, ...], tensors: Mapping[str, Tensor], beside: WeightSet) -> WeightSet:
    shown = ", ".join(list(tensors)[:2])
    reason = f"its {len(tensors)} names are none of a known network's ({shown}, ...)"
    return WeightSet(".".join(path), beside.format, {}, AVERAGED, ".".join(path), problem=reason)


def _lightning_roles(found: Sequence[WeightSet], content: Any) -> Iterator[WeightSet]:
    """Lightning's WeightAveraging keeps the average as `state_dict` and the raw one as `current_model_state`."""
    swapped = isinstance(content, Mapping) and "averaging_state" in content and "current_model_state" in content
    for s in found:
        averaged = swapped and s.within == "state_dict" and s.role == "raw"
        yield replace(s, role=AVERAGED) if averaged else s


def same_weights(one: WeightSet, other: WeightSet) -> bool:
    """Whether two sets hold the same numbers under the same names."""
    if one.problem or other.problem or set(one.tensors) != set(other.tensors):
        return False
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        for a, b in ((value, other.tensors[name]) for name, value in one.tensors.items())
    )
