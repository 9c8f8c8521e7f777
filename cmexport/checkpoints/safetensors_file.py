"""`.safetensors`: a JSON header and raw bytes. Nothing is allocated before the header agrees with the file's size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cmexport.errors import CheckpointError

# 629 tensors of a diffusers UNet take 75 kB; the format itself would allow 100 MB.
MAX_HEADER_BYTES = 16 * 2**20
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _UnsupportedError(Exception):
    pass


class StoredTensors(Mapping[str, Tensor]):
    """Named tensors of a safetensors file, each read when it is asked for, and again the next time."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: damaged, truncated, or a header that lies about sizes.
        """
        self._path, (self._base, self._entries) = path, _header(path)

    def __iter__(self) -> Iterator[str]:
        """Give the names in the header's order."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._entries)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            CheckpointError: the file shrank meanwhile.
        """
        entry = self._entries[name]
        with self._path.open("rb") as stream:
            return _read(self._path, stream, self._base, entry)

    def shapes(self) -> dict[str, Tensor]:
        """All tensors without their values, on the device `meta`."""
        return {
            name: torch.empty(entry["shape"], dtype=_TYPES[entry["dtype"]], device="meta")
            for name, entry in self._entries.items()
        }


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file.

    Raises:
        CheckpointError: damaged, truncated, or a header that lies about sizes.
    """
    base, entries = _header(path)
    with path.open("rb") as stream:
        return {name: _read(path, stream, base, entry) for name, entry in entries.items()}


def _header(path: Path) -> tuple[int, dict[str, Mapping[str, Any]]]:
    """Where the data begins, and what the header says of each tensor."""
    total = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if total < 8 or length > min(total - 8, MAX_HEADER_BYTES):
            raise CheckpointError(f"{path}: its safetensors header claims {length:,} bytes (damaged or truncated)")
        text = stream.read(length)
    try:
        header = json.loads(text)
        _check_header(header, total - 8 - length)
    except _UnsupportedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise CheckpointError(f"{path}: its safetensors header is damaged ({error or type(error).__name__})") from error
    return 8 + length, {name: entry for name, entry in header.items() if name != "__metadata__"}


def metadata_of(path: Path) -> dict[str, str]:
    """Read what the header says besides tensors, of a file that was read before; nothing where that is damaged."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            found = json.loads(stream.read(min(length, MAX_HEADER_BYTES))).get("__metadata__")
        except (ValueError, AttributeError, RecursionError):
            return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _read(path: Path, stream: BinaryIO, base: int, entry: Mapping[str, Any]) -> Tensor:
    start, stop = entry["data_offsets"]
    # Read, not mapped as the library does: see torch_files.py.
    data = torch.empty(stop - start, dtype=torch.uint8)
    stream.seek(base + start)
    reader: Any = stream
    if reader.readinto(data.numpy()) != stop - start:
        raise CheckpointError(f"{path}: shrank while it was read")
    return data.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])


def _check_header(header: Any, data_bytes: int) -> None:
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        if str(entry["dtype"]).startswith("F8"):
            raise _UnsupportedError(f"{name[:80]} is {entry['dtype']}: weights in 8 bits are not read; give them in 16")
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name[:80]} has the unknown type {str(entry['dtype'])[:20]}")
        if any(type(n) is not int or n < 0 for n in (*shape, start, stop)) or len(shape) > 8:
            raise ValueError(f"{name[:80]} has an impossible shape")
        # An empty tensor may claim any size along its other axes, and torch can't count their strides.
        if math.prod(max(n, 1) for n in shape) >= 2**62:
            raise ValueError(f"{name[:80]} has an impossible shape")
        if stop - start != math.prod(shape) * _TYPES[entry["dtype"]].itemsize:
            raise ValueError(f"{name[:80]} has a shape that its bytes do not fill")
        end = max(end, stop)
    if end != data_bytes:
        raise ValueError(f"{data_bytes:,} bytes of data, {end:,} described")
