"""Weights in several files: an index (`*.safetensors.index.json`, `*.bin.index.json`) says which weight lies in which.

The index is data from outside: every file must lie beside it, hold exactly the weights that it is said to hold, and no
weight may come twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cmexport.checkpoints.reading import FileFacts, facts_of_all, file_facts
from cmexport.errors import CheckpointError
from cmexport.files import require_file

# 629 weights of a diffusers UNet take 60 kB.
_MAX_INDEX_BYTES = 16 * 2**20
_MAX_SHARDS = 1000


def read_shards(index: Path, read: Callable[[FileFacts], Mapping[str, Tensor]]) -> tuple[FileFacts, dict[str, Tensor]]:
    """All weights that an index lists, and facts of the whole: the hash is over names and hashes of the shards.

    Args:
        index: the index file.
        read: reads the state dict in one shard.

    Raises:
        CheckpointError: the index is damaged, names files elsewhere or missing ones, or shards and index disagree.
    """
    where = _weight_map(index)
    shards = sorted(set(where.values()))
    missing = [name for name in shards if not (index.parent / name).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{index}: {len(missing)} of its {len(shards)} files missing: {missing[0]}{more}; copy or download them too"
        )
    tensors: dict[str, Tensor] = {}
    files: list[tuple[str, FileFacts]] = []
    for name in shards:
        facts = file_facts(index.parent / name)
        files.append((name, facts))
        held = read(facts)
        if again := sorted(set(held) & set(tensors)):
            raise CheckpointError(f"{facts.path}: {again[0]} lies in another file of {index.name} too")
        expected = {key for key, file in where.items() if file == name}
        if lost := sorted(expected - set(held)):
            raise CheckpointError(f"{facts.path}: lacks {lost[0]}, which {index.name} says it holds")
        if extra := sorted(set(held) - expected):
            raise CheckpointError(f"{facts.path}: holds {extra[0]}, which {index.name} does not list for it")
        tensors.update(held)
    # In the order of the index, which is the order of the state dict.
    return facts_of_all(index, files), {key: tensors[key] for key in where}


def _weight_map(index: Path) -> dict[str, str]:
    require_file(index, "an index of weights")
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise CheckpointError(f"{index}: is larger than any index of weights")
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except _TwiceError as error:
        raise CheckpointError(f"{index}: lists {error} twice") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: is no valid JSON ({error})") from error
    except OSError as error:
        raise CheckpointError(f"{index}: can't be read ({error.strerror})") from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(f"{index}: has no weight_map from weights to files")
    for file in found.values():
        # A name alone: no folder, no parent, whatever the system writes between them.
        if not file or file in (".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise CheckpointError(f"{index}: names the file {file[:80]!r}, which does not lie beside it")
    if len(set(found.values())) > _MAX_SHARDS:
        raise CheckpointError(f"{index}: names {len(set(found.values()))} files")
    return found


class _TwiceError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key[:80])
        found[key] = value
    return found
