"""`cmexport.toml` beside a weights file: names the architecture and any constant that weights can't tell.

    [network]
    name = "adm_unet"          # optional: refuse anything else
    num_head_channels = 64     # any field that --set knows

    [set]
    sigma_max = 80.0

Values are text or numbers; no code is named and none is run. `--set` on the command line wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.files import require_file
from cmexport.naming import checkpoint_stem

SIDECAR_NAME = "cmexport.toml"
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Sidecar:
    """What stands beside a weights file; empty if nothing does."""

    path: Path | None = None
    architecture: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


def read_sidecar(weights: Path) -> Sidecar:
    """Read the sidecar of a weights file: `<name>.toml` or `cmexport.toml` in its folder.

    A `cmexport.toml` whose `checkpoint` names another file is not this file's.

    Raises:
        CheckpointError: it is no TOML, or its tables are not tables of plain values.
    """
    for path in (weights.with_name(f"{checkpoint_stem(weights.name)}.toml"), weights.parent / SIDECAR_NAME):
        if path.exists() and not path.is_dir():
            content = _parse(path)
            named = content.get("checkpoint")
            if isinstance(named, str) and (path.parent / named).resolve() != weights.resolve():
                continue
            network = _table(path, content, "network")
            architecture = network.pop("name", None)
            return Sidecar(path, architecture, {**network, **_table(path, content, "set")})
    return Sidecar()


def _parse(path: Path) -> dict[str, Any]:
    require_file(path, "a sidecar")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: is larger than any sidecar")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error


def _table(path: Path, content: Mapping[str, Any], name: str) -> dict[str, str]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: [{name}] must be a table")
    return {key: as_text(value) for key, value in table.items()}


def as_text(value: object) -> str:
    """Write a plain value as `--set` would spell it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
