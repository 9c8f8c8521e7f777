"""`--levels-of difficulty=100`: a continuous condition of which the graph knows so many values, and tabulates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cmexport.errors import UsageError
from cmexport.model import Condition, ConsistencyModel
from cmexport.networks.scalar_label import UnitInterval
from cmexport.signature import known

MOST_LEVELS = 4096
"""A table of the terrain model's has 30,000 numbers a row: 4096 rows are half a gigabyte."""


def listed(model: ConsistencyModel, levels_of: Mapping[str, int]) -> ConsistencyModel:
    """Return the model with some of its continuous conditions rounded to equally spaced values of their range.

    Raises:
        UsageError: it has no such condition, or has it baked in; or not 2 to 4096 values.
    """
    for name, levels in levels_of.items():
        found = next((c for c in model.conditions if c.input.name == name and isinstance(c.encode, UnitInterval)), None)
        if found is None:
            names = [c.input.name for c in model.conditions if isinstance(c.encode, UnitInterval)]
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise UsageError(f"--levels-of {name}={levels}: this model takes no such number; {has}")
        if found.usual is not None:
            raise UsageError(f"--levels-of {name}={levels}: --set {name}={found.usual:g} bakes it in")
        if not 2 <= levels <= MOST_LEVELS:
            raise UsageError(f"--levels-of {name}={levels}: must be 2 to {MOST_LEVELS}")
        form = _form(found, levels)
        model = replace(model, conditions=tuple(form if c is found else c for c in model.conditions))
    return model


def _form(condition: Condition, levels: int) -> Condition:
    assert isinstance(condition.encode, UnitInterval)
    low, high = condition.encode.low, condition.encode.high
    encode = UnitInterval(low, high, levels).eval()
    return replace(condition, input=known.difficulty(1, low, high, levels), encode=encode)
