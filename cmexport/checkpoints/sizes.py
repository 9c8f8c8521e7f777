"""Which picture sizes a network takes: height and width must halve as often as it does."""

from __future__ import annotations

import re
from pathlib import Path

from cmexport.errors import CheckpointError
from cmexport.model import Space

MOST_PIXELS = 8192


def parse_size(text: str) -> int | tuple[int, int]:
    """`32`, or height and width as `16x32` (also `16,32` and `[16, 32]`); a square is one number.

    Raises:
        ValueError: it is neither, or a side is not between 1 and 8192.
    """
    sides = [int(part) for part in re.split(r"[x,]", text.replace(" ", "").strip("()[]").lower())]
    if not 1 <= len(sides) <= 2 or not all(1 <= side <= MOST_PIXELS for side in sides):
        raise ValueError(f"must be one side, or height x width as 16x32, each from 1 to {MOST_PIXELS} pixels")
    return sides[0] if sides[0] == sides[-1] else (sides[0], sides[1])


def space_of(path: Path, channels: int, size: int | tuple[int, int], multiple: int) -> Space:
    """Return the space of a network's pictures, once the network is known to take them.

    Args:
        path: the checkpoint, for the message.
        channels: picture channels.
        size: side of a square, or height and width, pixels.
        multiple: 2 to the number of the network's halvings.

    Raises:
        CheckpointError: a side is no multiple; the message names the nearest sizes that are.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    if height % multiple or width % multiple:
        near = [_nearest(side, multiple) for side in (height, width)]
        taken = "x".join(map(str, dict.fromkeys(near) if height == width else near))
        raise CheckpointError(
            f"{path}: pictures of {height}x{width} pixels can't be halved {multiple.bit_length() - 1} times, as this "
            f"network does;\nheight and width must be multiples of {multiple}: --set image_size={taken}, say"
        )
    return Space(channels, height, width, multiple)


def _nearest(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple
