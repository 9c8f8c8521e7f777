"""Names of a network's layers as LoRA files spell them.

A name is looked up among those that the network's own layers would have in a spelling; none is taken apart, since
`down_blocks_0` and `to_out_0` do not tell where their dots were.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cmexport.checkpoints.ldm_names import RESNET, UNET_ENDS

# Stability's generative-models (`sgm`) calls modules as ldm does.
_SGM_BLOCK = {ours: theirs for theirs, ours in RESNET.items()}
_SGM_ALONE = {ours: theirs for theirs, ours in UNET_ENDS.items()}
_BLOCK = re.compile(r"^(?:(down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.+)$")
# Old diffusers named the attention's own matrices alike in all networks.
_OLD = {
    "to_q": ("to_q", "q_proj"),
    "to_k": ("to_k", "k_proj"),
    "to_v": ("to_v", "v_proj"),
    "to_out": ("to_out.0", "out_proj"),
}
_TEXT = "text_model."


@dataclass(frozen=True)
class Layers:
    """The layers of one network that a LoRA may change: linear ones and convolutions.

    Attributes:
        shapes: of their weights, by the layer's name: (O, I) or (O, I, k, k).
    """

    shapes: Mapping[str, torch.Size]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layers:
        """List those of a network's weights, which are exactly the network's: the reading that follows is strict."""
        weights = {name: tensor for name, tensor in tensors.items() if name.endswith(".weight")}
        return cls({n.removesuffix(".weight"): w.shape for n, w in weights.items() if w.ndim in (2, 4)})

    @cached_property
    def _flat(self) -> Mapping[str, str]:
        """Layers by the name that kohya's scripts give them, diffusers' with _ for dots."""
        return {prefix.replace(".", "_") + n.replace(".", "_"): n for n in self.shapes for prefix in ("", _TEXT)}

    @cached_property
    def _flat_sgm(self) -> Mapping[str, str]:
        """Layers by their name in `sgm`, with _ for dots."""
        return {sgm.replace(".", "_"): name for name, sgm in sgm_names(self.shapes).items()}

    def flat(self, name: str) -> str | None:
        """Find a layer by its diffusers name with _ for dots."""
        return self._flat.get(name)

    def flat_sgm(self, name: str) -> str | None:
        """Find a layer by its name in `sgm` with _ for dots."""
        return self._flat_sgm.get(name)

    def dotted(self, name: str, *, old: bool = False) -> str | None:
        """Find a layer by its own name, or by the one that old diffusers gave it: `attn1.processor.to_out`."""
        name = name.removeprefix(_TEXT)
        if not old:
            return name if name in self.shapes else None
        head, _, last = name.replace(".processor.", ".").rpartition(".")
        candidates = (f"{head}.{instead}" for instead in _OLD.get(last, (last,)))
        return next((found for found in candidates if found in self.shapes), None)


def sgm_names(names: Collection[str]) -> dict[str, str]:
    """Return the names in `sgm` of a UNet's layers, by those in diffusers.

    `input_blocks` and `output_blocks` are counted through all resolutions, an entry for each residual block and each
    downsampler; an upsampler belongs to the last entry of its resolution (Stability-AI/generative-models,
    `sgm/modules/diffusionmodules/openaimodel.py`).
    """
    parts = {name: match for name in names if (match := _BLOCK.match(name))}
    entries = {(m[1], int(m[2]), m[3], int(m[4])) for m in parts.values() if m[1]}
    blocks = Counter((way, level) for way, level, kind, _ in entries if kind == "resnets")
    attended = {(way, level) for way, level, kind, _ in entries if kind == "attentions"}
    halved = {level for way, level, kind, _ in entries if way == "down" and kind == "downsamplers"}

    def start(way: str, level: int) -> int:
        taken = sum(blocks[way, lower] for lower in range(level))
        return taken if way == "up" else 1 + taken + sum(lower in halved for lower in range(level))

    found = {}
    for name in names:
        if name in _SGM_ALONE:
            found[name] = _SGM_ALONE[name]
            continue
        if name not in parts:
            continue
        way, level, kind, index, rest = parts[name].groups()
        number = int(index)
        rest = _SGM_BLOCK.get(rest, rest) if kind == "resnets" else rest
        if way is None:
            # A residual block, attention, a residual block.
            where = f"middle_block.{1 if kind == 'attentions' else 2 * number}"
        elif kind in ("resnets", "attentions"):
            entry = start(way, int(level)) + number
            where = f"{'input' if way == 'down' else 'output'}_blocks.{entry}.{0 if kind == 'resnets' else 1}"
        elif kind == "downsamplers":
            where, rest = f"input_blocks.{start(way, int(level)) + blocks[way, int(level)]}.0", "op"
        else:
            last = start(way, int(level)) + blocks[way, int(level)] - 1
            where = f"output_blocks.{last}.{1 + ((way, int(level)) in attended)}"
        found[name] = f"{where}.{rest}"
    return found
