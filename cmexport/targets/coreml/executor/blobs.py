"""Read tensors from `weights/weight.bin`, Apple's MILBlob storage, without coremltools' own reader.

    0   count u32, version u32 (2), 56 bytes of zeros
    64  for each blob, at a multiple of 64: sentinel u32 (0xDEADBEEF), element type u32, size of the data in bytes u64,
        position of the data u64, unused bits at its end u64, 32 bytes of zeros

The layout is that of coremltools' open source (`mlmodel/src/MILBlob/Blob/StorageFormat.hpp`). Elements of fewer than
eight bits are packed from the least significant bit on, across byte borders. A file is a claim, not a fact: every
number is checked against the file's size before a byte is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmexport.errors import CheckpointError
from cmexport.files import require_file

SENTINEL = 0xDEADBEEF
HEADER_BYTES = 64
METADATA_BYTES = 64

BLOB_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""Element types by their number in the metadata (`BlobDataType.hpp`)."""

BITS = {
    "bool": 8,
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "bfloat16": 16,
    "int4": 4,
    "int8": 8,
    "int16": 16,
    "int32": 32,
    "int64": 64,
    "uint1": 1,
    "uint2": 2,
    "uint3": 3,
    "uint4": 4,
    "uint6": 6,
    "uint8": 8,
    "uint16": 16,
    "uint32": 32,
    "uint64": 64,
}
"""Size of one stored element of every numeric type."""

Array = npt.NDArray[np.generic]


def packed_bytes(dtype: str, elements: int) -> int:
    """How many bytes `elements` values of a type take."""
    return -(-elements * BITS[dtype] // 8)


def unpack(data: npt.NDArray[np.uint8], dtype: str, elements: int) -> Array:
    """Numbers from bytes, flat; sub-byte types become int8 or uint8, bfloat16 becomes float32.

    Args:
        data: exactly `packed_bytes(dtype, elements)` bytes.
        dtype: a key of `BITS`.
        elements: how many to return.
    """
    bits = BITS[dtype]
    if bits >= 8:
        if dtype == "bfloat16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return data.view(np.dtype(dtype).newbyteorder("<"))
    unpacked = np.unpackbits(data, count=elements * bits, bitorder="little").reshape(elements, bits)
    values: npt.NDArray[np.uint8] = np.packbits(unpacked, axis=1, bitorder="little").reshape(elements)
    if dtype == "int4":
        return ((values ^ 8).astype(np.int8) - 8).astype(np.int8)
    return values


@dataclass(frozen=True)
class BlobFile:
    """One weights file. Opened for each read, so that no handle outlives it.

    Attributes:
        path: the file.
        size: its length in bytes when the program was read.
    """

    path: Path
    size: int

    @classmethod
    def open(cls, path: Path) -> BlobFile:
        """Look at the file's header.

        Raises:
            CheckpointError: it is missing, unreadable or not a weights file.
        """
        require_file(path, "a weights file")
        try:
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
            size = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{path}: the weights file can't be read ({error.strerror}); copy the whole package again"
            ) from error
        if len(header) < HEADER_BYTES or struct.unpack_from("<I", header, 4)[0] != 2:
            raise CheckpointError(f"{path}: this is not a weights file of an ML Program; copy the whole package again")
        return cls(path, size)

    def check(self, offset: int, dtype: str, elements: int) -> int:
        """The data's size in bytes, after comparing the blob's metadata with what the program says it is.

        Raises:
            CheckpointError: the metadata is outside the file, is no metadata, or disagrees.
        """
        return self._locate(offset, dtype, elements)[1]

    def read(self, offset: int, dtype: str, elements: int) -> Array:
        """The blob's numbers, flat, as a view of the mapped file where no unpacking is needed.

        Raises:
            CheckpointError: as `check`.
        """
        start, nbytes = self._locate(offset, dtype, elements)
        if nbytes == 0:
            return unpack(np.zeros(0, np.uint8), dtype, elements)
        try:
            data = np.memmap(self.path, np.uint8, "r", start, (nbytes,))
        except (OSError, ValueError) as error:
            raise self._damaged(offset, "its data can't be read") from error
        return unpack(data, dtype, elements)

    def _locate(self, offset: int, dtype: str, elements: int) -> tuple[int, int]:
        """Position and length of the data in bytes."""
        if offset % 64 or not HEADER_BYTES <= offset <= self.size - METADATA_BYTES:
            raise self._damaged(offset, f"that is no position in this file of {self.size} bytes")
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                metadata = file.read(METADATA_BYTES)
        except OSError as error:
            raise self._damaged(offset, "its metadata can't be read") from error
        if len(metadata) < METADATA_BYTES:
            raise self._damaged(offset, "its metadata is cut off")
        sentinel, code, nbytes, start, _ = struct.unpack_from("<IIQQQ", metadata)
        if sentinel != SENTINEL:
            raise self._damaged(offset, "no blob begins there")
        # Booleans have no type of their own in this format.
        stored = BLOB_TYPES.get(code, f"type {code}")
        if stored != ("uint8" if dtype == "bool" else dtype):
            raise self._damaged(offset, f"it holds {stored}, and the program says {dtype}")
        expected = packed_bytes(dtype, elements)
        if nbytes != expected:
            raise self._damaged(offset, f"it holds {nbytes} bytes, and the program needs {expected}")
        if start < HEADER_BYTES or start + nbytes > self.size:
            raise self._damaged(offset, f"its data lies outside this file of {self.size} bytes")
        return start, nbytes

    def _damaged(self, offset: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: the weights file is damaged or belongs to another package: blob at {offset}: {reason}; "
            "copy the whole package again"
        )
