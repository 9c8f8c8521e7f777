"""`network-snapshot-*.pkl` of NVlabs/edm and locuslab/ect, read without running the source embedded in them.

Such a pickle is a dictionary of objects that say: "execute this Python source, make this class, set this state". Here
the source is only looked at as text; weights and constants come out of the states of the modules.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cmexport.checkpoints.reading import FileFacts, unsafe_error
from cmexport.checkpoints.safe_pickle import Blob, PickleRefusedError, ordered_dict, read_pickle
from cmexport.checkpoints.settings import Default
from cmexport.checkpoints.torch_files import UnsafeContentError, checked_extent, inspect_legacy, load_tensors
from cmexport.errors import CheckpointError

_MAX_DEPTH = 64
_MAX_TENSORS = 50_000


@dataclass(eq=False)
class ModuleRecord:
    """A module as the pickle describes it: its class name, its embedded source (text only) and its attributes."""

    class_name: str
    source: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    def set_state(self, state: Any) -> None:
        """Take over the attributes of the pickled object."""
        if isinstance(state, dict):
            self.state = state


@dataclass(frozen=True)
class EdmPickle:
    """What such a pickle holds.

    Attributes:
        entry: dictionary key the network came from, "ema" if there is one.
        class_name: of the outermost module, e.g. "ECMPrecond".
        source: its embedded Python source, never executed.
        attributes: its plain numbers and texts (sigma_min, sigma_data, label_dim, ...).
        tensors: parameters and buffers by dotted name.
    """

    entry: str
    class_name: str
    source: str
    attributes: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def _persistent_object(args: tuple[Any, ...]) -> ModuleRecord:
    meta = args[0]
    state = meta.get("state")
    return ModuleRecord(
        str(meta.get("class_name", "")), str(meta.get("module_src", "")), state if isinstance(state, dict) else {}
    )


def _storage(args: tuple[Any, ...]) -> Any:
    data = args[0].read() if isinstance(args[0], Blob) else args[0]
    stream = io.BytesIO(data)
    inspect_legacy(stream, len(data))
    stream.seek(0)
    return load_tensors(stream)


def _tensor(args: tuple[Any, ...]) -> Tensor:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, torch.storage.TypedStorage):
        raise PickleRefusedError("a tensor has no storage")
    untyped, empty = storage._untyped_storage, torch.empty(0, dtype=storage.dtype)
    sizes = checked_extent(size, stride, offset, untyped.nbytes() // empty.element_size())
    # `Tensor.set_` with explicit sizes only re-describes the storage: nothing is copied.
    return empty.set_(untyped, offset, sizes, tuple(stride))


def _container(name: str) -> Callable[[tuple[Any, ...]], ModuleRecord]:
    return lambda _: ModuleRecord(name)


def _nothing(_: tuple[Any, ...]) -> None:
    return None


_BUILDERS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = MappingProxyType(
    {
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "dnnlib.util.EasyDict": lambda _: {},
        "collections.OrderedDict": ordered_dict,
        "torch._utils._rebuild_parameter": lambda args: args[0],
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch.storage._load_from_bytes": _storage,
        "torch.Size": lambda args: args[0],
        "torch.device": _nothing,
        "numpy.dtype": _nothing,
        "numpy.core.multiarray.scalar": _nothing,
        "numpy._core.multiarray.scalar": _nothing,
        **{
            f"torch.nn.modules.container.{name}": _container(name)
            for name in ("ModuleDict", "ModuleList", "Sequential")
        },
    }
)
# Named beside the network, never called: ECT's loss_fn holds a bound method, which pickles as getattr.
_INERT = frozenset(
    {"builtins.getattr", "builtins.set", "builtins.slice", "torch.float16", "torch.float32", "torch.float64"}
)


def _describe(stream: BinaryIO) -> Any:
    content = read_pickle(stream, _BUILDERS)
    foreign = tuple(found for found in content.imports if str(found) not in _BUILDERS and str(found) not in _INERT)
    if foreign:
        raise UnsafeContentError(foreign)
    return content.value


def read_edm_pickle(facts: FileFacts) -> Mapping[str, EdmPickle]:
    """Read such a pickle without importing or executing anything it names: its networks, by entry ("" for one alone).

    Raises:
        CheckpointError: damaged, no network inside, or it wants to import something that no network needs.
    """
    path = facts.path
    try:
        with path.open("rb") as stream:
            content = _describe(stream)
        return _find_networks(content)
    except UnsafeContentError as error:
        raise unsafe_error(path, error.imports) from error
    except PickleRefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error


# Entries that hold networks, the usual one first; `augment_pipe` and `loss_fn` are modules too.
_ENTRIES = ("ema", "net", "model", "G_ema", "")


def _find_networks(content: Any) -> dict[str, EdmPickle]:
    candidates = content if isinstance(content, dict) else {"": content}
    names = [*_ENTRIES, *(str(key) for key in candidates if key not in (*_ENTRIES, "augment_pipe", "loss_fn"))]
    found = {}
    for entry in names:
        record = candidates.get(entry)
        if isinstance(record, ModuleRecord):
            tensors: dict[str, Tensor] = {}
            _collect(record, "", tensors, _MAX_DEPTH)
            plain = {
                k: v for k, v in record.state.items() if type(v) in (bool, int, float, str) and not k.startswith("_")
            }
            found[entry] = EdmPickle(entry, record.class_name, record.source, plain, tensors)
    if found:
        return found
    if isinstance(content, dict) and "param_groups" in content and "state" in content:
        raise PickleRefusedError("it is an optimizer's state, not a model")
    shown = ", ".join(str(key)[:40] for key in candidates if key) or type(content).__name__
    raise PickleRefusedError(f"it is a pickle without a network (found: {shown[:200]})")


def _collect(record: Any, prefix: str, tensors: dict[str, Tensor], depth: int) -> None:
    if not isinstance(record, ModuleRecord):
        return
    if depth == 0 or len(tensors) > _MAX_TENSORS:
        raise PickleRefusedError("its modules are nested implausibly deep")
    for group in ("_parameters", "_buffers"):
        values = record.state.get(group)
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
    modules = record.state.get("_modules")
    for name, child in modules.items() if isinstance(modules, dict) else ():
        _collect(child, f"{prefix}{name}.", tensors, depth - 1)


_DIFFUSION_ONLY = frozenset({"VPPrecond", "VEPrecond", "iDDPMPrecond"})


def preconditioning_of(found: EdmPickle) -> Default:
    """Which form the wrapper class uses, decided from its name and its embedded text.

    ECT's `ECMPrecond` switches to the consistency form in eval mode (it asks `self.training`); TCM's class of the same
    name always uses the EDM form.

    Raises:
        PickleRefusedError: the class belongs to another kind of diffusion model.
    """
    if found.class_name in _DIFFUSION_ONLY:
        raise PickleRefusedError(f"its wrapper {found.class_name} is no consistency model")
    if found.class_name == "ECMPrecond":
        text = re.search(r"^class ECMPrecond\b.*?(?=^class |^@|\Z)", found.source, re.DOTALL | re.MULTILINE)
        if text is None:
            return Default("cm", "ECMPrecond, source not embedded", ambiguous=True)
        if "self.training" in text[0]:
            return Default("cm", "embedded source: ECMPrecond in eval mode")
        return Default("edm", "embedded source: ECMPrecond without a training branch")
    if found.class_name == "EDMPrecond":
        return Default("edm", "class EDMPrecond")
    return Default("edm", f"guess for class {found.class_name[:60] or 'without name'}", ambiguous=True)
