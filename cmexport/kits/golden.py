"""`golden/` of a kit: four pictures of each run and the noise they began with, for `selfTest` and a kit's own tests.

The pictures are drawn by the artefact itself, in the runtime that verified it, with `cmx1` noise: what a device must
show. That they are PyTorch's is what the artefact's parity report says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmexport import noise
from cmexport.kits.facts import Kit, KitRun
from cmexport.parity.metrics import as_bytes
from cmexport.runner import Array, Runner, picture_of
from cmexport.signature import Signature, known
from cmexport.sources import cmx1_noise, source_from_artifact
from cmexport.tokenizer import Tokenizer, calibration_prompts

PICTURES = 4
_COUNTERS = (
    ((0, 0, 0, 0), (0, 0)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)),
)
"""Inputs of Random123's `kat_vectors`, philox4x32 with ten rounds."""

_WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x20F8A25E, 0xDF075DA1)
"""Ends, middle, and the only two words of all 2^32 whose number changes where products are fused with sums."""

_STREAMS = ((0, 0), (0, 1), (42, 0), (0x123456789ABCDEF0, 2))
_COUNT = 3072


def noise_vectors() -> dict[str, Any]:
    """Return what every implementation of `cmx1` must give: rounds of Philox, single words, whole streams."""
    philox = []
    for counter, key in _COUNTERS:
        words = noise.philox([np.array([word], dtype=np.uint64) for word in counter], key)
        philox.append(
            {
                "counter": [f"{word:08x}" for word in counter],
                "key": [f"{word:08x}" for word in key],
                "result": [f"{int(word[0]):08x}" for word in words],
            }
        )
    bits = noise.normal(np.array(_WORDS, dtype=np.uint64)).view(np.uint32)
    streams = []
    for seed, stream in _STREAMS:
        drawn = noise.draw(seed, _COUNT, stream)
        streams.append(
            {
                "seed": str(seed),
                "stream": stream,
                "first": [f"{int(value):08x}" for value in drawn[:4].view(np.uint32)],
                "count": _COUNT,
                "sha256": hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest(),
            }
        )
    words_and_bits = zip(_WORDS, bits, strict=True)
    return {
        "philox": philox,
        "words": [{"word": f"{word:08x}", "bits": f"{int(value):08x}"} for word, value in words_and_bits],
        "streams": streams,
    }


def golden_files(
    folder: Path,
    kit: Kit,
    tokenizer: Tokenizer | None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, bytes]:
    """Draw the pictures of every run; return the files of `golden/` by their names, `golden.json` among them.

    Args:
        folder: the artefact.
        kit: what it is.
        tokenizer: its tokenizer, where it takes text.
        progress: told about every picture.

    Raises:
        BackendError: its runtime isn't here.
    """
    files: dict[str, bytes] = {}
    pictures: list[dict[str, Any]] = []
    total = PICTURES * len(kit.runs)
    for run in kit.runs:
        source = source_from_artifact(folder, run.name)
        drawing = _Drawing(kit, run, source.signature, tokenizer)
        with source.open() as runner:
            for seed in range(PICTURES):
                progress(len(pictures), total)
                pictures.append(drawing.picture(runner, seed, files))
    least = {run.name: run.least_db for run in kit.runs}
    vectors = {"noise": noise_vectors(), "pictures": pictures, "least_db": least}
    files["golden.json"] = json.dumps(vectors, indent=1, ensure_ascii=False).encode() + b"\n"
    return files


@dataclass(frozen=True)
class _Drawing:
    """Draws the pictures of one run as an app would."""

    kit: Kit
    run: KitRun
    signature: Signature
    tokenizer: Tokenizer | None

    def picture(self, runner: Runner, seed: int, files: dict[str, bytes]) -> dict[str, Any]:
        """Draw one picture into `files`; return what `golden.json` says of it."""
        facts: dict[str, Any] = {
            "run": self.run.name,
            "seed": str(seed),
            **dict.fromkeys(("label", "prompt", "text", "guidance", "image", "mask")),
        }
        inputs = {**cmx1_noise(self.signature, seed), **self._asked(seed, facts), **self._edited(files, facts)}
        picture = as_bytes(picture_of(runner({name: inputs[name] for name in self.signature.names})))[0]
        if facts["mask"] is not None:
            # Kits promise kept pixels to the last byte; a graph in few bits keeps them only nearly.
            kept, image = (np.frombuffer(files[facts[name]], np.uint8) for name in ("mask", "image"))
            picture = np.where(kept.reshape(*picture.shape[:2], 1) == 255, image.reshape(picture.shape), picture)
        facts["expected"] = f"{self.run.name}-{seed}.rgb"
        facts["height"], facts["width"], facts["channels"] = picture.shape
        files[facts["expected"]] = picture.tobytes()
        return facts

    def _asked(self, seed: int, facts: dict[str, Any]) -> Mapping[str, Array]:
        """Choose a class, a prompt and a scale; a picture each takes the next."""
        asked: dict[str, Array] = {}
        if self.kit.labels is not None and self.run.input("label"):
            facts["label"] = seed % len(self.kit.labels)
            asked["label"] = np.asarray(facts["label"])
        if self.kit.prompts is not None and self.run.input(known.PROMPT):
            facts["prompt"] = seed % len(self.kit.prompts)
            asked[known.PROMPT] = np.asarray(facts["prompt"])
        if self.tokenizer is not None and self.run.input(known.TOKENS):
            facts["text"] = calibration_prompts()[seed]
            asked[known.TOKENS] = np.asarray(self.tokenizer.encode(facts["text"]))
        if self.run.input("guidance"):
            facts["guidance"] = self.kit.guidance
            asked["guidance"] = np.asarray(self.kit.guidance)
        return self.signature.spread(asked)

    def _edited(self, files: dict[str, bytes], facts: dict[str, Any]) -> Mapping[str, Array]:
        """Make up a picture to edit and its mask, as bytes, the same for all pictures of the run."""
        edited: dict[str, Array] = {}
        if not self.signature.given:
            return edited
        drawn = self.signature.draw()
        for each in self.signature.given:
            facts[each.name] = f"{self.run.name}.{each.name}.{'gray' if each.name == 'mask' else 'rgb'}"
            levels = as_bytes(drawn[each.name] * 2 - 1 if each.name == "mask" else drawn[each.name])[0]
            files[facts[each.name]] = levels.tobytes()
            wide = levels.transpose(2, 0, 1).astype(np.float32)
            edited[each.name] = wide / np.float32(255) if each.name == "mask" else wide / np.float32(127.5) - 1
        return self.signature.spread(edited)
