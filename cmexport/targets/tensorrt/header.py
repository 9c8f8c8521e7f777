"""What the first bytes of an engine say, readable without TensorRT and without a GPU.

TensorRT for RTX 1.7 starts a plan with 64 bytes: `vtrt`, the plan's length (8 bytes at 16), its own version (4 bytes
at 24: major, minor, patch, build) and a bit for each GPU it may be loaded on (8 bytes at 32: 7.5, 8.0, 8.6, 8.9, 12.0,
12.1 from the lowest bit on). Found by building the same network for different GPUs; NVIDIA documents none of it, so
what is not as expected is reported as unknown, and the library has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmexport.errors import CheckpointError
from cmexport.files import require_file

HEADER_BYTES = 64
_RTX = b"vtrt"
_PLAN = b"ptrt"
_OLD_PLAN = b"ftrt"
_SM_BITS = (75, 80, 86, 89, 120, 121)


@dataclass(frozen=True)
class EngineHeader:
    """What is known of an engine before it is loaded.

    Attributes:
        rtx: whether TensorRT for RTX made it.
        version: of the TensorRT that made it, "1.7.1.116"; None where the header doesn't tell.
        sms: compute capabilities it may be loaded on; None where the header doesn't tell.
    """

    rtx: bool
    version: str | None = None
    sms: tuple[int, ...] | None = None


def read_header(path: Path) -> EngineHeader:
    """Read and check an engine's first bytes.

    Raises:
        CheckpointError: the file is missing, is no engine, or is not as long as it says.
    """
    require_file(path, "an engine")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    if head[:4] in (_PLAN, _OLD_PLAN):
        return EngineHeader(rtx=False)
    if head[:4] != _RTX:
        raise CheckpointError(f"{path}: not a TensorRT engine")
    if len(head) < HEADER_BYTES:
        raise CheckpointError(f"{path}: damaged: it ends within its header; export the model again")
    length = int.from_bytes(head[16:24], "little")
    if length != size:
        raise CheckpointError(f"{path}: damaged: {size} bytes, and its header says {length}; export the model again")
    bits = int.from_bytes(head[32:40], "little")
    known = bits and bits < 1 << len(_SM_BITS)
    return EngineHeader(
        rtx=True,
        version=".".join(str(n) for n in head[24:28]),
        sms=tuple(sm for i, sm in enumerate(_SM_BITS) if bits >> i & 1) if known else None,
    )
