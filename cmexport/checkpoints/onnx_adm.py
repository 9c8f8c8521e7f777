"""ADM UNets out of ONNX graphs: a denoiser `(noisy, sigma[, label]) -> denoised`, as plain exporters write it.

Convolutions and linear layers keep the names of their weights there; norms lose theirs, since a GroupNorm is spelled
Reshape, InstanceNormalization, Reshape, Mul, Add. Each is found by walking back from the convolution that it stands
before. What the graph says of heads, noise levels and pictures is read off it too. Whether all of that is right is
proven by `onnx_proof`, which runs the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from cmexport.checkpoints.onnx_file import OnnxFile, named
from cmexport.errors import CheckpointError, first_line
from cmexport.model import SettingValue
from cmexport.runner import Array

_ANCHOR = "time_embed.0.weight"
_WEIGHTS = re.compile(
    r"(time_embed\.[02]|label_emb(\.[02])?|out\.2|(input_blocks|output_blocks)\.\d+\.\d\.\w+(\.\d)?"
    r"|input_blocks\.0\.0|middle_block\.\d\.\w+(\.\d)?)\.(weight|bias)$"
)
# The norm that stands before each of these.
_NORMED = {"in_layers.2": "in_layers.0", "out_layers.3": "out_layers.0", "qkv": "norm", "out.2": "out.0"}
_NORM_EPSILON = 1e-5
_PLAIN = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Exp", "Log", "Sin", "Cos"),
        *("Sigmoid", "Clip"),
        *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Shape", "Slice", "Split", "Concat", "Gather"),
        *("InstanceNormalization", "GroupNormalization", "MatMul", "Einsum", "Softmax", "Cast", "Identity"),
    }
)
_C_NOISE = {250.0: "250ln", 0.25: "0.25ln"}
_MOST_PIXELS = 8192
# 256 channels at full size, twice; attention over all pixels of 64 x 64 pictures takes 4096.
_MOST_NUMBERS_A_PIXEL = 65_536


@dataclass(frozen=True)
class OnnxDenoiser:
    """What a graph says of the network inside.

    Attributes:
        file: the file.
        tensors: the state dict, norms included, without prefix.
        settings: constants that the graph or its metadata state, as `Settings.embedded` takes them.
        noisy, sigma, output: names of the picture, its noise level and the denoised picture.
        label: name of the condition's input; None where there is none.
    """

    file: OnnxFile
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, SettingValue]
    noisy: str
    sigma: str
    label: str | None
    output: str


def read_denoiser(file: OnnxFile) -> OnnxDenoiser:
    """Recognize an ADM UNet in a graph and take it apart.

    Raises:
        CheckpointError: it is none; the message names the first node that didn't fit.
    """
    return _Reader(file).denoiser()


class _Reader:
    """One reading of one file; thrown away at its end."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.path = file.facts.path
        anchors = [name for name in file.constants if name == _ANCHOR or name.endswith("." + _ANCHOR)]
        if len(anchors) != 1:
            shown = ", ".join(name[:60] for name in list(file.constants)[:3]) or "none"
            raise CheckpointError(
                f"{self.path}: no ADM UNet is in this graph: {len(anchors)} weights are called {_ANCHOR} (it has "
                f"{shown}, ...)\nONNX files are read that were exported from OpenAI's UNet with its weights' names"
            )
        self.prefix = anchors[0][: -len(_ANCHOR)]
        self.groups = 0

    def refuse(self, node: Any, why: str) -> NoReturn:
        """Name the node that didn't fit."""
        raise CheckpointError(f"{self.path}: is no ADM UNet as exporters write it: {named(node)} {why}")

    def denoiser(self) -> OnnxDenoiser:
        noisy, sigma, label = self._roles()
        tensors: dict[str, Tensor] = {}
        norms = 0
        for node in self.file.nodes:
            self._check(node)
            if node.op_type not in ("Conv", "Gemm") and not self._looks_up(node):
                continue
            layer = self._layer(node)
            for name, constant in self._named_weights(node).items():
                tensors[name] = _tensor(self.file.constants[constant])
            ending = next((e for e in _NORMED if layer == e or layer.endswith("." + e)), None)
            if ending is not None:
                norm = layer[: -len(ending)] + _NORMED[ending]
                gamma, beta = self._norm_before(node)
                tensors |= {f"{norm}.weight": _tensor(gamma), f"{norm}.bias": _tensor(beta)}
                norms += 1
        self._check_all_read(norms)
        self._check_sizes(noisy)
        settings = {**self._levels(sigma), **self._attention(), **self._pictures(noisy), "groups": self.groups}
        if label is not None:
            settings |= self._units(label)
        return OnnxDenoiser(
            self.file, tensors, settings, noisy, sigma, label, output=self.file.model.graph.output[0].name
        )

    # What each node may be.

    def _check(self, node: Any) -> None:
        """Refuse what no exporter writes for this network, also because it is run later: nothing may grow."""
        attributes = _attributes(node)
        if node.op_type in ("Conv", "AveragePool"):
            kernel = list(attributes.get("kernel_shape", self._kernel(node)))
            pads, strides = list(attributes.get("pads", [0] * 4)), list(attributes.get("strides", [1, 1]))
            sizes = ([1, 1], [3, 3]) if node.op_type == "Conv" else ([2, 2],)
            if kernel not in sizes or pads != [(kernel[0] - 1) // 2] * 4 or strides not in ([1, 1], [2, 2]):
                self.refuse(node, f"has kernel {kernel}, pads {pads} and strides {strides}")
            if attributes.get("group", 1) != 1 or list(attributes.get("dilations", [1, 1])) != [1, 1]:
                self.refuse(node, "works in groups or with dilations")
        elif node.op_type == "Resize":
            scales = self.file.constants.get(node.input[2]) if len(node.input) > 2 else None
            if scales is None or scales.tolist() != [1, 1, 2, 2] or attributes.get("mode", b"nearest") != b"nearest":
                self.refuse(node, "does not double height and width by repeating pixels")
        elif node.op_type == "Gemm":
            if (attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)) != (1, 1, 0):
                self.refuse(node, "scales or turns its factors")
            if attributes.get("transB", 0) != 1:
                self.refuse(node, "takes its weight the other way round")
        elif node.op_type == "Expand" and node.input[1] not in self.file.constants:
            self.refuse(node, "grows to a shape that the graph computes")
        elif node.op_type not in _PLAIN:
            self.refuse(node, "has no place in it")

    def _kernel(self, node: Any) -> list[int]:
        weight = self.file.constants.get(node.input[1]) if len(node.input) > 1 else None
        return [] if weight is None else list(weight.shape[2:])

    def _looks_up(self, node: Any) -> bool:
        return bool(node.op_type == "Gather" and node.input[0] == f"{self.prefix}label_emb.weight")

    def _layer(self, node: Any) -> str:
        """Name the layer whose weight a node takes."""
        weight = node.input[0] if node.op_type == "Gather" else node.input[1]
        name = weight.removeprefix(self.prefix) if weight.startswith(self.prefix) else ""
        if weight not in self.file.constants or not _WEIGHTS.match(name) or not name.endswith(".weight"):
            self.refuse(node, f"takes '{weight[:80]}', which is no weight of an ADM UNet")
        return name.removesuffix(".weight")

    def _named_weights(self, node: Any) -> dict[str, str]:
        layer = self._layer(node)
        if node.op_type == "Gather":
            return {f"{layer}.weight": node.input[0]}
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias != f"{self.prefix}{layer}.bias":
            self.refuse(node, f"adds '{bias[:80]}' to {layer}, not its own bias")
        return {f"{layer}.weight": node.input[1], f"{layer}.bias": bias}

    # Norms.

    def _norm_before(self, conv: Any) -> tuple[Array, Array]:
        found = self._norm_at(conv.input[0], None, None)
        if found is None:
            self.refuse(conv, "has no group norm before it")
        return found

    def _norm_at(self, value: str, gamma: Array | None, beta: Array | None) -> tuple[Array, Array] | None:
        """Walk back over SiLU, resampling and scale-shift to a norm; its factors and summands."""
        node = self.file.producers.get(value)
        if node is None:
            return None
        if node.op_type == "InstanceNormalization":
            self._check_norm(node)
            if gamma is None or beta is None:
                self.refuse(node, "is followed by no factors and summands of each channel, in that order")
            return gamma, beta
        if node.op_type == "GroupNormalization":
            self._note_groups(node, int(_attributes(node).get("num_groups", 0)))
            return self._constant(node, 1), self._constant(node, 2)
        if node.op_type in ("AveragePool", "Resize", "Reshape"):
            return self._norm_at(node.input[0], gamma, beta)
        if node.op_type not in ("Mul", "Add"):
            return None
        fixed = [i for i, name in enumerate(node.input) if self._per_channel(name)]
        if fixed:
            held, other = self.file.constants[node.input[fixed[0]]].reshape(-1), node.input[1 - fixed[0]]
            # x * gamma + beta: read backwards, the summands come first.
            if node.op_type == "Add":
                return self._norm_at(other, None, held)
            return self._norm_at(other, held, beta) if gamma is None else None
        for name in node.input:
            if (found := self._norm_at(name, gamma, beta)) is not None:
                return found
        return None

    def _per_channel(self, name: str) -> bool:
        held = self.file.constants.get(name)
        return held is not None and held.size > 1

    def _constant(self, node: Any, index: int) -> Array:
        held = self.file.constants.get(node.input[index]) if len(node.input) > index else None
        if held is None:
            self.refuse(node, "computes its factors")
        return held.reshape(-1)

    def _check_norm(self, node: Any) -> None:
        scale, shift = self._constant(node, 1), self._constant(node, 2)
        if not ((scale == 1).all() and (shift == 0).all()):
            self.refuse(node, "has factors for whole groups")
        self._note_groups(node, scale.size)

    def _note_groups(self, node: Any, groups: int) -> None:
        epsilon = _attributes(node).get("epsilon", _NORM_EPSILON)
        if not math.isclose(epsilon, _NORM_EPSILON, rel_tol=1e-4):
            self.refuse(node, f"has the epsilon {epsilon:g}; this network has {_NORM_EPSILON:g}")
        if self.groups not in (0, groups):
            self.refuse(node, f"has {groups} groups where others have {self.groups}")
        self.groups = groups

    def _check_all_read(self, norms: int) -> None:
        written = [n for n in self.file.nodes if n.op_type in ("InstanceNormalization", "GroupNormalization")]
        if len(written) != norms:
            raise CheckpointError(
                f"{self.path}: {len(written)} norms stand in the graph and {norms} before convolutions that have one"
            )

    def _check_sizes(self, noisy: str) -> None:
        """Refuse graphs that make more of a picture than any UNet does: they are run later."""
        import onnx

        small = onnx.ModelProto()
        small.CopyFrom(self.file.model)
        for border in small.graph.input:
            sides = border.type.tensor_type.shape.dim
            if border.name in self.file.inputs and len(sides):
                sides[0].dim_value = 1
        _, _, height, width = self.file.inputs[noisy]
        most = _MOST_NUMBERS_A_PIXEL * (height or 1) * (width or 1)
        try:
            inferred = onnx.shape_inference.infer_shapes(small, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise CheckpointError(f"{self.path}: its shapes don't fit together: {first_line(error)[:160]}") from error
        for value in inferred.graph.value_info:
            sides = value.type.tensor_type.shape.dim
            numbers = math.prod(side.dim_value for side in sides if side.HasField("dim_value"))
            if numbers > most and value.name in self.file.producers:
                self.refuse(self.file.producers[value.name], f"makes {numbers:,} numbers of one picture")

    # Inputs.

    def _roles(self) -> tuple[str, str, str | None]:
        """Tell the inputs apart by what they are used for: picture, noise level, condition."""
        inputs = self.file.inputs
        pictures = [name for name, shape in inputs.items() if len(shape) == 4]
        numbers = [name for name, shape in inputs.items() if len(shape) == 1]
        if len(pictures) != 1 or len(pictures) + len(numbers) != len(inputs) or not 1 <= len(numbers) <= 2:
            listed = ", ".join(f"{name[:40]} {tuple('?' if s is None else s for s in x)}" for name, x in inputs.items())
            raise CheckpointError(
                f"{self.path}: takes {listed}; a denoiser takes a picture, its noise level and at most one condition"
            )
        if len(self.file.model.graph.output) != 1:
            raise CheckpointError(f"{self.path}: gives {len(self.file.model.graph.output)} outputs, not one picture")
        label = next(filter(None, map(self._label_of, self.file.nodes)), None)
        levels = [name for name in numbers if name != label]
        if len(levels) != 1 or (label is None) != (len(numbers) == 1):
            raise CheckpointError(f"{self.path}: which of {', '.join(numbers)} is the noise level can't be told")
        return pictures[0], levels[0], label

    def _label_of(self, node: Any) -> str | None:
        """Find the input behind the label's embedding, if this is it."""
        looked_up = self._looks_up(node)
        if not looked_up and not (node.op_type == "Gemm" and node.input[1] == f"{self.prefix}label_emb.0.weight"):
            return None
        value = node.input[1] if looked_up else node.input[0]
        while (made := self.file.producers.get(value)) is not None:
            if made.op_type not in ("Unsqueeze", "Reshape", "Cast", "Identity"):
                self.refuse(made, "changes the label before its embedding")
            value = made.input[0]
        return str(value)

    # Constants.

    def _levels(self, sigma: str) -> dict[str, SettingValue]:
        """Read sigma_min, sigma_data and the scale of ln sigma off what is computed of it; and the last clip."""
        found: dict[str, SettingValue] = {"precond": "edm"}
        for node in self.file.nodes:
            constants = [self._scalar(name) for name in node.input]
            number = next((c for c in constants if c is not None), None)
            if node.op_type == "Sub" and node.input[0] == sigma and number is not None:
                found |= {"precond": "cm", "sigma_min": number}
            elif node.op_type == "Add" and number and "sigma_data" not in found and self._squares(node, sigma):
                found["sigma_data"] = math.sqrt(number)
            elif node.op_type == "Log":
                scale = self._scale_after(node.output[0])
                if scale not in _C_NOISE:
                    self.refuse(node, f"feeds the time embedding {scale:g} ln sigma; known are 250 and 0.25")
                found["c_noise"] = _C_NOISE[scale]
        last = self.file.producers[self.file.model.graph.output[0].name]
        limits = [self._scalar(name) for name in last.input[1:3]]
        if last.op_type == "Clip" and limits != [-1.0, 1.0]:
            self.refuse(last, f"clips to {limits}, not to -1 and 1")
        return {**found, "clamp": last.op_type == "Clip"}

    def _scalar(self, name: str) -> float | None:
        held = self.file.constants.get(name)
        # The number that was meant: 0.002, not the 0.0020000000949949026 that float32 makes of it.
        return None if held is None or held.size != 1 else float(str(held.reshape(-1)[0]))

    def _squares(self, node: Any, sigma: str) -> bool:
        square = next((p for name in node.input if (p := self.file.producers.get(name)) is not None), None)
        if square is None or square.op_type not in ("Pow", "Mul") or square.input[0] != sigma:
            return False
        return bool(square.op_type == "Pow" or square.input[1] == sigma)

    def _scale_after(self, value: str) -> float:
        scale = 1.0
        while users := [n for n in self.file.nodes if value in n.input]:
            number = next((s for name in users[0].input if (s := self._scalar(name)) is not None), None)
            if users[0].op_type not in ("Mul", "Div") or number is None:
                break
            scale = scale * number if users[0].op_type == "Mul" else scale / number
            value = users[0].output[0]
        return scale

    def _pictures(self, noisy: str) -> dict[str, SettingValue]:
        _, _, height, width = self.file.inputs[noisy]
        if height is None or width is None:
            return {}
        if not (0 < height <= _MOST_PIXELS and 0 < width <= _MOST_PIXELS):
            raise CheckpointError(f"{self.path}: takes pictures of {height}x{width} pixels")
        return {"image_size": height if height == width else (height, width)}

    def _units(self, label: str) -> dict[str, SettingValue]:
        """Read between which numbers the condition lies for people: `difficulty: continuous-1-to-100`."""
        told = re.fullmatch(r"continuous-(\d+(?:\.\d+)?)-to-(\d+(?:\.\d+)?)", self.file.metadata.get(label, ""))
        if told is None or not float(told[1]) < float(told[2]):
            return {}
        return {"label_range": (_number(told[1]), _number(told[2]))}

    # Attention.

    def _attention(self) -> dict[str, SettingValue]:
        layouts = {self._heads(node) for node in self.file.nodes if node.op_type == "Softmax"} - {None}
        if len(layouts) != 1:
            return {}  # `--set`, or the defaults of the family; a wrong one is refused by the proof.
        (layout,) = layouts
        assert layout is not None
        return {"num_head_channels": layout[0], "qkv_order": layout[1]}

    def _heads(self, softmax: Any) -> tuple[int, str] | None:
        """Read off width of a head and order of qkv's rows, where reshapes before and after the split say them."""
        inner: list[int | None] = []
        split: Any = None
        for node in self._towards_qkv(softmax):
            if node.op_type == "Split":
                split = node
            elif node.op_type == "Reshape":
                sides = self._sides(node.input[1])
                if split is None:
                    inner = sides
                    continue
                return _layout(inner, sides, int(_attributes(split).get("axis", 0)), self._channels_of(node))
        return None

    def _towards_qkv(self, softmax: Any) -> Iterator[Any]:
        node = self.file.producers.get(softmax.input[0])
        while node is not None and node.op_type != "Conv":
            yield node
            node = self.file.producers.get(node.input[0])

    def _channels_of(self, reshape: Any) -> int:
        conv = self.file.producers.get(reshape.input[0])
        return 0 if conv is None or conv.op_type != "Conv" else len(self.file.constants[conv.input[1]]) // 3

    def _sides(self, name: str) -> list[int | None]:
        """Return the sides of a shape, None where they are computed."""
        if name in self.file.constants:
            return [int(side) for side in self.file.constants[name].reshape(-1)]
        node = self.file.producers.get(name)
        if node is None or node.op_type != "Concat":
            return [None]
        return [side for part in node.input for side in self._sides(part)]


def _layout(inner: list[int | None], outer: list[int | None], axis: int, channels: int) -> tuple[int, str] | None:
    """Width of a head and order of the rows of qkv; `inner` is the shape of q after the split, `outer` before it."""
    width: int | None = None
    order = "head_major"
    if channels and len(outer) == 4 and outer[1]:
        # (N, 3 heads, width, T), split in three, or (N, heads, 3 width, T).
        order = "thirds" if axis == 1 else "head_major"
        width = channels * (3 if axis == 1 else 1) // outer[1]
    elif channels and len(outer) == 3 and inner:
        # cm/unet.py's QKVAttention: (N, 3 C, T), split, then (N heads, width, T).
        order = "thirds"
        width = inner[1] if len(inner) == 3 else channels // (inner[1] or channels)
        if outer[1] is not None and outer[1] > 0 and outer[1] != 3 * channels:
            order = "head_major"
    elif channels and len(outer) == 3 and outer[1] and outer[1] > 0:
        # QKVAttentionLegacy: (N heads, 3 width, T), split.
        width = outer[1] // 3
    return None if not width or width < 1 else (width, order)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _tensor(array: Array) -> Tensor:
    # The proto's memory is read-only.
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
