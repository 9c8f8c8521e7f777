"""Lists of weights without names, in the order of `module.parameters()`: what torch_ema and diffusers' EMAModel keep.

A state dict stands in the same order, with buffers in between (`parameters()` skips them) and with tied weights under
each of their names (`parameters()` has them once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

# Buffers of these networks, by the end of their names.
_BUFFERS = ("resample_filter", "freqs", "num_batches_tracked", "running_mean", "running_var")


def name_list(order: Mapping[str, Tensor], values: Sequence[Tensor]) -> tuple[dict[str, Tensor] | None, str]:
    """Give the values the names of `order`, or say why that is not certain.

    Every value must find a name in order with its shape, in exactly one way: names may be left out (buffers, frozen
    weights), but where two choices of them fit, nothing says which one is right.

    Returns:
        The named values and "", or None and the reason.
    """
    unique = _untied(order)
    if len(unique) > 2 and unique == sorted(unique):
        # No network of a known format registers its modules in the order of the alphabet.
        return None, "the weights beside it were sorted by name, so the order of its tensors is lost"
    parameters = [name for name in unique if not name.endswith(_BUFFERS) and order[name].is_floating_point()]
    for names in (parameters, unique):
        if len(names) == len(values):
            if all(order[n].shape == v.shape for n, v in zip(names, values, strict=True)):
                return _tied(order, dict(zip(names, values, strict=True))), ""
            first = next(i for i, n in enumerate(names) if order[n].shape != values[i].shape)
            return (
                None,
                f"tensor {first} has shape {tuple(values[first].shape)}, not {tuple(order[names[first]].shape)}",
            )
    if len(values) > len(unique):
        return None, f"it has {len(values)} tensors for {len(unique)} weights"
    places = _only_way([order[n].shape for n in unique], [v.shape for v in values])
    if places is None:
        return None, f"its {len(values)} tensors don't fit the {len(parameters)} weights in one way only"
    return _tied(order, {unique[index]: value for index, value in zip(places, values, strict=True)}), ""


def _untied(order: Mapping[str, Tensor]) -> list[str]:
    seen: set[tuple[int, ...]] = set()
    names = []
    for name, tensor in order.items():
        place = (tensor.data_ptr(), tensor.storage_offset(), *tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        names.append(name)
    return names


def _tied(order: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the named values, also under the other names of tied weights, in the order of `order`."""
    by_place = {(order[n].data_ptr(), *order[n].shape): v for n, v in named.items() if order[n].numel()}
    full = {name: named.get(name, by_place.get((t.data_ptr(), *t.shape))) for name, t in order.items()}
    return {name: value for name, value in full.items() if value is not None}


def _only_way(shapes: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> list[int] | None:
    """Find the indices of `shapes` that spell `wanted` in order, if there is exactly one such choice."""
    first: list[int] = []
    at = 0
    for shape in wanted:
        while at < len(shapes) and shapes[at] != shape:
            at += 1
        if at == len(shapes):
            return None
        first.append(at)
        at += 1
    last: list[int] = []
    at = len(shapes) - 1
    for shape in reversed(wanted):
        while shapes[at] != shape:
            at -= 1
        last.append(at)
        at -= 1
    # The earliest and the latest choice agree only where there is one.
    return first if first == last[::-1] else None
