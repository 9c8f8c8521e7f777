"""What every record in `manifest.json` has in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, StringConstraints


class Record(BaseModel):
    """A frozen record: unknown keys are refused, and so are NaN and Inf, which JSON can't say."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will give them back, so that a manifest equals itself after a round trip."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


PlainValue = Annotated[JsonValue | tuple[int | float, ...], BeforeValidator(_plain)]
"""Any JSON value; tuples are taken, and kept as lists."""

PlainDict = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
"""A JSON object with any content."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""
