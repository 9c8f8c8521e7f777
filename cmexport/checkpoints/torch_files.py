"""Files written by `torch.save`: looked through without running anything, then read by torch.

Order of business: the zip directory is checked against the file's real size, the pickle inside is described by
`safe_pickle` (never run), every storage it declares is compared with the bytes that exist, every record is checked
against its checksum. Only then does `torch.load(weights_only=True)` see the file. Nothing is
allocated on the word of the file, so a file that lies about sizes can't exhaust memory.

The file is read, not mapped. Mapping would save nothing, since every weight is looked at anyway, and a training run
that overwrites its checkpoint while it is mapped kills the reader with a bus error.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch

from cmexport.checkpoints.safe_pickle import Global, PickleContent, PickleRefusedError, ordered_dict, read_pickle

# ImageNet-64's description of 541 tensors is 70 kB; a training state with its optimizer stays below 1 MB.
MAX_DESCRIPTION_BYTES = 64 * 2**20
MAX_RECORDS = 100_000
_CHUNK = 4 * 2**20
# What Python's zip reader raises on damaged archives: negative offsets give OSError, bad names KeyError.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
# torch.serialization.MAGIC_NUMBER: what a file of torch before 1.6 starts with.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# Bytes per element of the storage classes that torch names in a pickle.
STORAGE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "DoubleStorage": 8,
        "FloatStorage": 4,
        "HalfStorage": 2,
        "BFloat16Storage": 2,
        "LongStorage": 8,
        "IntStorage": 4,
        "ShortStorage": 2,
        "CharStorage": 1,
        "ByteStorage": 1,
        "BoolStorage": 1,
        "UntypedStorage": 1,
        "ComplexFloatStorage": 8,
        "ComplexDoubleStorage": 16,
    }
)

# Names that checkpoints of this family mention beside tensors. None is imported: an inert stand-in takes its place.
_HARMLESS = frozenset(
    {
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.Path",
        "collections.defaultdict",
        # What pytorch-lightning's callbacks leave in training files, Stable Diffusion 1.4's among them: a class as a
        # key, and numpy's scalars.
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",
    }
)


class UnsafeContentError(Exception):
    """The file wants to import names that no weights need; `imports` lists them, none was imported."""

    def __init__(self, imports: tuple[Global, ...]) -> None:
        super().__init__(", ".join(str(i) for i in imports))
        self.imports = imports


@dataclass(frozen=True)
class StorageStub:
    """A storage as the pickle declares it: its record's name, its size and its class, "FloatStorage"."""

    key: str
    elements: int
    element_bytes: int
    kind: str

    @property
    def size_bytes(self) -> int:
        """Size that the storage declares, bytes."""
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class TensorStub:
    """A tensor as the pickle declares it, checked to lie inside its storage; stride and offset in elements."""

    storage: StorageStub
    size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0


class _Inert:
    """Stand-in for a harmless class (`argparse.Namespace`): takes any state and does nothing with it."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise PickleRefusedError("a tensor has an impossible size or place")
    return value


def checked_extent(size: Any, stride: Any, offset: Any, elements: int) -> tuple[int, ...]:
    """Sizes of a strided tensor, if all of it lies inside `elements` and no element is used twice.

    A stride of 0 would let a few bytes claim a tensor of any size.

    Raises:
        PickleRefusedError: it does not.
    """
    sizes = tuple(_natural(s) for s in size)
    strides = tuple(_natural(s) for s in stride)
    if len(sizes) != len(strides) or len(sizes) > 8:
        raise PickleRefusedError("a tensor has an impossible shape")
    count = math.prod(sizes)
    last = _natural(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if count and (last >= elements or count > elements):
        raise PickleRefusedError(f"a tensor of shape {sizes} does not fit into its storage of {elements} elements")
    return sizes


def _tensor(args: tuple[Any, ...]) -> TensorStub:
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, StorageStub):
        raise PickleRefusedError("a tensor has no storage")
    return TensorStub(storage, checked_extent(size, stride, offset, storage.elements), tuple(stride), offset)


_BUILDERS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = MappingProxyType(
    {
        "collections.OrderedDict": ordered_dict,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": lambda args: args[0],
        "torch.Size": lambda args: args[0],
        "torch.device": lambda _: None,
    }
)
_EXPECTED = frozenset(
    {
        *_BUILDERS,
        *_HARMLESS,
        *(f"torch.{name}" for name in STORAGE_BYTES),
        "torch.storage.UntypedStorage",
        "torch.float16",
        "torch.float32",
        "torch.float64",
        "torch.bfloat16",
        "torch.int64",
        "torch.int32",
    }
)


def is_expected(name: Global) -> bool:
    """Whether plain weights may mention a name."""
    return str(name) in _EXPECTED


def describe(
    stream: BinaryIO, allowed: Callable[[Global], bool] = is_expected
) -> tuple[PickleContent, dict[str, StorageStub]]:
    """Describe one pickle of a torch file: its content with stubs for tensors, and the storages it declares.

    Args:
        stream: at the pickle's first byte.
        allowed: which names it may mention; none of them is imported.

    Raises:
        PickleRefusedError: damaged or over a limit.
        UnsafeContentError: it names an import that no weights need.
    """
    storages: dict[str, StorageStub] = {}

    def persistent(identity: Any) -> StorageStub:
        kind, storage_class, key, _, elements, *_ = identity
        if kind != "storage" or not isinstance(storage_class, Global) or storage_class.name not in STORAGE_BYTES:
            raise PickleRefusedError("a storage is of an unknown kind")
        stub = StorageStub(str(key), _natural(elements), STORAGE_BYTES[storage_class.name], storage_class.name)
        if storages.setdefault(stub.key, stub) != stub:
            raise PickleRefusedError(f"storage {stub.key} is declared twice, with different sizes")
        return stub

    content = read_pickle(stream, _BUILDERS, persistent)
    foreign = tuple(found for found in content.imports if not allowed(found))
    if foreign:
        raise UnsafeContentError(foreign)
    return content, storages


def inspect_zip(path: Path, allowed: Callable[[Global], bool] = is_expected) -> Any:
    """Check a torch zip file against itself and return its content with tensor stubs.

    Args:
        path: the file.
        allowed: see `describe`.

    Raises:
        PickleRefusedError: damaged, truncated, compressed, lying about sizes, or not written by torch.
        UnsafeContentError: it would import something.
    """
    total = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            records = archive.infolist()
            if len(records) > MAX_RECORDS or len({r.filename for r in records}) != len(records):
                raise PickleRefusedError("its zip directory is implausible")
            described = [r for r in records if r.filename.endswith("/data.pkl") or r.filename == "data.pkl"]
            if any(r.filename.endswith("/constants.pkl") for r in records):
                raise PickleRefusedError("it is a TorchScript program, not weights; save `model.state_dict()` instead")
            _check_directory(records, total)
            if len(described) != 1:
                raise PickleRefusedError("it is a zip archive, but torch.save did not write it")
            if described[0].file_size > MAX_DESCRIPTION_BYTES:
                raise PickleRefusedError(f"its description claims {described[0].file_size:,} bytes")
            with archive.open(described[0]) as stream:
                description = stream.read(MAX_DESCRIPTION_BYTES)
            content, storages = describe(io.BytesIO(description), allowed)
            root = described[0].filename[: -len("data.pkl")]
            sizes = {r.filename: r.file_size for r in records}
            for storage in storages.values():
                held = sizes.get(f"{root}data/{storage.key}")
                if held != storage.size_bytes:
                    raise PickleRefusedError(
                        f"storage {storage.key} should have {storage.size_bytes:,} bytes and has {held or 0:,}"
                    )
            for record in records:
                _check_crc(raw, record)
    except _ZIP_ERRORS as error:
        raise PickleRefusedError(f"its zip structure is damaged or truncated ({error})") from error
    return content.value


# Of the storages that weights come in.
_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "DoubleStorage": torch.float64,
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
    }
)


def description_of(path: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of the description in a torch zip file; empty where there is none.

    Raises:
        PickleRefusedError: damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.filename.endswith("data.pkl") and record.file_size <= MAX_DESCRIPTION_BYTES:
                    return record.filename, archive.read(record)
    except _ZIP_ERRORS as error:
        raise PickleRefusedError(f"its zip structure is damaged or truncated ({error})") from error
    return "", b""


def read_stubs(path: Path, stubs: Mapping[str, TensorStub]) -> dict[str, torch.Tensor]:
    """Read floating-point tensors that `inspect_zip` described and checked, without torch's reader of pickles.

    Raises:
        PickleRefusedError: one is of another type, or the file was written by a machine of the other byte order.
    """
    root = description_of(path)[0][: -len("data.pkl")]
    read: dict[str, torch.Tensor] = {}
    storages: dict[str, torch.Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise PickleRefusedError("it was written by a machine of another byte order")
            for name, stub in stubs.items():
                key, kind = stub.storage.key, stub.storage.kind
                if kind not in _DTYPES:
                    raise PickleRefusedError(f"{name} is no floating-point tensor ({kind})")
                if key not in storages:
                    held = bytearray(archive.read(f"{root}data/{key}"))
                    storages[key] = torch.frombuffer(held, dtype=_DTYPES[kind]) if held else torch.empty(0)
                read[name] = storages[key].as_strided(stub.size, stub.stride, stub.offset).clone()
    except _ZIP_ERRORS as error:
        raise PickleRefusedError(f"its zip structure is damaged or truncated ({error})") from error
    return read


def _check_directory(records: list[zipfile.ZipInfo], total: int) -> None:
    if sum(r.file_size for r in records) > total:
        raise PickleRefusedError("its zip directory claims more bytes than the file has")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise PickleRefusedError(f"record {record.filename} is compressed, which torch.save never does")


def _check_crc(raw: BinaryIO, record: zipfile.ZipInfo) -> None:
    raw.seek(record.header_offset)
    header = raw.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleRefusedError(f"record {record.filename} is not where the directory says")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    raw.seek(record.header_offset + 30 + names)
    left, crc = record.file_size, 0
    while left:
        chunk = raw.read(min(_CHUNK, left))
        if not chunk:
            raise PickleRefusedError(f"record {record.filename} is truncated")
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    if crc != record.CRC:
        raise PickleRefusedError(f"record {record.filename} does not match its checksum: the file is damaged")


def inspect_legacy(stream: BinaryIO, total: int) -> Any:
    """Inspect a file of the format before torch 1.6: five pickles, then the storages' raw bytes; `total` bytes in all.

    Raises:
        PickleRefusedError: damaged, truncated, lying about sizes.
        UnsafeContentError: it would import something.
    """
    for _ in range(3):
        read_pickle(stream, {}, max_operations=1000)
    content, storages = describe(stream)
    keys = read_pickle(stream, {}).value
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise PickleRefusedError("its list of storages does not match its tensors")
    left = total - stream.tell()
    needed = sum(s.size_bytes + 8 for s in storages.values())
    if needed > left:
        raise PickleRefusedError(f"its tensors need {needed:,} bytes and {left:,} are there (truncated)")
    return content.value


def is_legacy(path: Path) -> bool:
    """Whether the first pickle of the file is torch's old magic number."""
    with path.open("rb") as stream:
        try:
            return bool(read_pickle(stream, {}, max_operations=4).value == LEGACY_MAGIC)
        except PickleRefusedError:
            return False


def load_tensors(file: Path | BinaryIO) -> Any:
    """Load the inspected file's content with real tensors.

    Raises:
        PickleRefusedError: torch refuses it after all.
    """
    # A stand-in only exists for names that `describe` let through; torch's own reader refuses every other import.
    stand_ins: list[Any] = [(_Inert, name) for name in sorted(_HARMLESS)]
    allowed: AbstractContextManager[None] = torch.serialization.safe_globals(stand_ins)
    try:
        with allowed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About pickle protocols, which `describe` has already looked at.
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file makes torch's reader fail in any way: AttributeError, IndexError, ...
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PickleRefusedError(f"torch can't read it: {reason[0][:200]}") from error
