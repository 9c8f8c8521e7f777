"""From a path to named tensors: every container format, no code run, every failure a `CheckpointError`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmexport.checkpoints.safe_pickle import Global, PickleRefusedError
from cmexport.checkpoints.torch_files import (
    UnsafeContentError,
    inspect_legacy,
    inspect_zip,
    is_legacy,
    load_tensors,
)
from cmexport.errors import CheckpointError
from cmexport.files import require_file

ONNX_CONTAINER = "onnx"
"""What `container_of` calls an exporter's file; a target has the same name."""

# Where training code puts the weights in a larger dictionary, best first: averaged weights make better pictures.
_WRAPPERS = (
    "ema",
    "model_ema",
    "ema_model",
    "ema_state_dict",
    "params_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
)


@dataclass(frozen=True)
class FileFacts:
    """Which file was read: path, hash and size."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Weights:
    """Named tensors out of a file, as they lie there.

    Attributes:
        file: the bytes they come from.
        container: "torch zip", "torch legacy" or "safetensors".
        tensors: by full name; may still be half precision.
        within: key of the dictionary entry they were taken from, None if the file is a bare state dict.
    """

    file: FileFacts
    container: str
    tensors: Mapping[str, Tensor]
    within: str | None = None


def file_facts(path: Path) -> FileFacts:
    """Hash a file in a stream; SHA-256 as lower-case hexadecimal.

    Raises:
        CheckpointError: missing, a folder, unreadable or empty.
    """
    require_file(path, "a checkpoint file")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(4 * 2**20):
                digest.update(chunk)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    return FileFacts(path, digest.hexdigest(), size)


def facts_of_all(path: Path, files: Iterable[tuple[str, FileFacts]]) -> FileFacts:
    """Facts of what lies in several files: the hash is over names and hashes of all, in this order.

    Args:
        path: what stands for the whole: an index, a folder, the first of them.
        files: each with the name that counts for it.
    """
    listed = list(files)
    digest = hashlib.sha256("".join(f"{name}\0{facts.sha256}\n" for name, facts in listed).encode())
    return FileFacts(path, digest.hexdigest(), sum(facts.size_bytes for _, facts in listed))


def unsafe_error(path: Path, imports: tuple[Global, ...]) -> CheckpointError:
    """Return the refusal of a file that wants to import names, with the report of what it named."""
    shown = ", ".join(str(name) for name in imports[:6]) + (f" and {len(imports) - 6} more" if len(imports) > 6 else "")
    return CheckpointError(
        f"{path}: refused, because opening it would import {shown}; nothing was run.\n"
        "Save plain weights (torch.save(model.state_dict(), ...)), or pass --trust-checkpoint if you trust its author."
    )


def read_torch(facts: FileFacts) -> tuple[str, Any]:
    """Read a `torch.save` file without running it: the container's name and its content with tensors.

    Raises:
        CheckpointError: damaged, truncated, or it would run code.
    """
    path = facts.path
    with path.open("rb") as stream:
        head = stream.read(4)
    legacy = head[:2] != b"PK"
    try:
        if legacy:
            with path.open("rb") as stream:
                inspect_legacy(stream, facts.size_bytes)
        else:
            inspect_zip(path)
        return ("torch legacy" if legacy else "torch zip"), load_tensors(path)
    except UnsafeContentError as error:
        raise unsafe_error(path, error.imports) from error
    except PickleRefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_trusted(facts: FileFacts) -> Any:
    """Read a file with Python's full unpickler, running whatever it holds: only for `--trust-checkpoint`.

    Raises:
        CheckpointError: it can't be read even so.
    """
    try:
        content = torch.load(facts.path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"{facts.path}: can't be read even when trusted ({type(error).__name__}: {error})"
        ) from error
    return _modules_to_weights(content)


def _modules_to_weights(content: Any) -> Any:
    if isinstance(content, torch.nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        return {key: _modules_to_weights(value) for key, value in content.items()}
    return content


def find_weights(facts: FileFacts, container: str, content: Any) -> Weights:
    """Find the state dict in a file's content: the content itself, or the best of its entries.

    Raises:
        CheckpointError: there is none, e.g. because the file is an optimizer's state.
    """
    path = facts.path
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if "param_groups" in content and "state" in content:
        raise CheckpointError(
            f"{path}: is an optimizer's state, not a model; use the ema_* or model* file of the same run"
        )
    if _is_state_dict(content):
        return Weights(facts, container, dict(content))
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and _is_state_dict(inner):
            return Weights(facts, container, dict(inner), within=key)
    shown = ", ".join(str(key)[:40] for key in list(content)[:5]) or "nothing"
    raise CheckpointError(f"{path}: holds no state dict (found: {shown})")


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def strict_weights(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], *, emptied: bool = False
) -> dict[str, Tensor]:
    """Return the found tensors as finite float32, if names and shapes are exactly the expected ones.

    Float32 tensors are passed through without a copy; half precision is widened, float64 narrowed. Where `found` is a
    dict that may be `emptied`, what is done leaves it, so that a large model is never there in two precisions.

    Raises:
        CheckpointError: missing or extra names, a wrong shape, a wrong type, NaN or Inf.
    """
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if missing:
        raise CheckpointError(f"{path}: {counted(missing, 'weight')} missing: {first_few(missing)}")
    if extra:
        raise CheckpointError(f"{path}: {counted(extra, 'weight')} more than the network has: {first_few(extra)}")
    result = {}
    for key, shape in expected.items():
        tensor = found.pop(key) if emptied and isinstance(found, dict) else found[key]
        if tensor.shape != shape:
            raise CheckpointError(f"{path}: {key} has shape {tuple(tensor.shape)}, the network needs {tuple(shape)}")
        if tensor.layout is not torch.strided or not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {key} is {tensor.dtype} ({tensor.layout}), not plain floating point")
        result[key] = finite(path, key, tensor.detach().to(torch.float32))
    return result


def finite(path: Path, key: str, tensor: Tensor) -> Tensor:
    """Return the tensor itself, if it has neither NaN nor Inf.

    Raises:
        CheckpointError: it has.
    """
    if tensor.numel():
        # aminmax passes NaN on and allocates nothing; isfinite would cost a second copy of the largest weight.
        low, high = torch.aminmax(tensor)
        if not (math.isfinite(low.item()) and math.isfinite(high.item())):
            raise CheckpointError(f"{path}: {key} holds NaN or infinite values (a diverged training?)")
    return tensor


def counted(names: Sequence[str], noun: str) -> str:
    """Say how many names there are: "2 weights"."""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"


def first_few(names: Sequence[str]) -> str:
    """List the first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def container_of(path: Path) -> str:
    """Return what the first bytes say: "torch", "safetensors", "pickle", "onnx" or "unknown"."""
    with path.open("rb") as stream:
        head = stream.read(9)
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and is_legacy(path)):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    # A safetensors file: the header's length, then the header, a JSON object.
    if head[8:9] == b"{":
        return "safetensors"
    return ONNX_CONTAINER if looks_like_onnx(head) else "unknown"


def looks_like_onnx(head: bytes) -> bool:
    """Whether a file begins as `onnx.ModelProto` is written: field 1, a small version, then one of its other fields."""
    # Fields 2 to 8 and 14 (producer, domain, version, doc, graph, opsets, metadata), with their wire types.
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 64 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
