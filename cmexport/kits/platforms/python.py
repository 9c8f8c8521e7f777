"""A Python package: NumPy and ONNX Runtime, nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from cmexport.kits.facts import Kit
from cmexport.kits.platforms.info import Platform

_CODE = "src/@snake@_kit"


def _shared(kit: Kit) -> Mapping[str, str]:
    """Noise, and the tokenizer where text is taken: they need NumPy and the standard library alone."""
    tokenizer = {} if kit.tokenizer is None else {f"{_CODE}/clip.py": "tokenizer/clip.py"}
    return {f"{_CODE}/noise.py": "noise.py", **tokenizer}


PLATFORM = Platform(
    name="python",
    title="Python",
    target="onnx",
    model_folder=f"{_CODE}/model",
    golden_folder=f"{_CODE}/golden",
    shared=_shared,
)
