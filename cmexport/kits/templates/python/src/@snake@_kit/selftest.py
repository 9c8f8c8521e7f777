"""The golden pictures again, on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelMissing, SelfTestFailed
from .pictures import Picture, psnr


@dataclass(frozen=True)
class SelfTest:
    """What a self-test found: the worst picture's PSNR in dB, infinite if all are equal, and the slowest's time."""

    pictures: int
    worst_db: float
    milliseconds: float


def run_self_test(folder: Path, draw: Callable[[Mapping[str, Any], Mapping[str, Picture]], Picture]) -> SelfTest:
    """Draw every golden picture and compare.

    Args:
        folder: `golden/`.
        draw: makes the picture of an entry of `golden.json`, given its `image` and `mask`.

    Raises:
        SelfTestFailed: a picture is farther from the stored one than other processors' rounding explains.
        ModelMissing: the golden pictures are not there.
    """
    path = folder / "golden.json"
    if not path.is_file():
        raise ModelMissing(path)
    golden = json.loads(path.read_text(encoding="utf-8"))
    worst, slowest = float("inf"), 0.0
    for entry in golden["pictures"]:
        shape = entry["height"], entry["width"], entry["channels"]
        stored = {
            name: np.frombuffer((folder / entry[name]).read_bytes(), dtype=np.uint8).reshape(side)
            for name, side in (("expected", shape), ("image", (*shape[:2], -1)), ("mask", shape[:2]))
            if entry[name] is not None
        }
        began = time.perf_counter()
        found = draw(entry, stored)
        slowest = max(slowest, (time.perf_counter() - began) * 1000)
        db, least = psnr(stored["expected"], found), golden["least_db"][entry["run"]]
        if db < least:
            raise SelfTestFailed(db, least)
        worst = min(worst, db)
    return SelfTest(len(golden["pictures"]), worst, slowest)
