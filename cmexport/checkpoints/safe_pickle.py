"""Reads pickles without ever running them.

A pickle is a program for a small stack machine. This file is that machine with the dangerous part left out: a global
is never imported, only named. A handful of names (tensors, ordered dictionaries) have a builder written here; every
other name becomes an inert `Foreign` record that remembers what the file wanted to import and call.

Limits that the standard machine lacks: operations and bytes are counted, dictionary keys must be plain (a key made of
nested tuples makes hashing take exponential time), and large byte strings stay in the file as `Blob` until asked for.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

# ImageNet-64's 541 tensors take about 18,000 operations; 2,000,000 take about 4 s of Python.
MAX_OPERATIONS = 2_000_000
# The longest text in a real file is an embedded source of about 40,000 characters.
MAX_ARGUMENT_BYTES = 16 * 2**20
# Byte strings at least this long are left in the file and read when a builder asks for them.
BLOB_BYTES = 4096

Builder = Callable[[tuple[Any, ...]], Any]


class PickleRefusedError(Exception):
    """The stream is damaged, exceeds a limit or uses an operation that no checkpoint needs."""


@dataclass(frozen=True)
class Blob:
    """A byte string left in the file: `length` bytes from `offset`."""

    stream: BinaryIO
    offset: int
    length: int

    def read(self) -> bytes:
        """Read it now; the stream's position is kept."""
        here = self.stream.tell()
        self.stream.seek(self.offset)
        data = self.stream.read(self.length)
        self.stream.seek(here)
        return data


@dataclass(frozen=True)
class Global:
    """A name the file wants to import, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Foreign:
    """The inert record of an object that the file wants to create: which callable, its arguments and its state."""

    callable: Any
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class PickleContent:
    """What a pickle describes.

    Attributes:
        value: plain data, builders' results and `Foreign` records.
        imports: every name the stream mentions for import, in order, each once.
        end: stream position after the STOP operation.
    """

    value: Any
    imports: tuple[Global, ...]
    end: int


class _Bounded:
    """The stream as `pickletools`' argument readers see it: nobody reads more than `MAX_ARGUMENT_BYTES` at once."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_ARGUMENT_BYTES:
            raise PickleRefusedError(f"its pickle holds a text or number of {size:,} bytes")
        return self.stream.read(size)

    def readline(self) -> bytes:
        return self.stream.readline(MAX_ARGUMENT_BYTES)


class _Mark:
    """Where a group of stack items begins."""


_MARK = _Mark()


class _Machine:
    def __init__(
        self,
        stream: BinaryIO,
        builders: Mapping[str, Builder],
        persistent: Callable[[Any], Any] | None,
        max_operations: int,
    ) -> None:
        self.stream = stream
        self.builders = builders
        self.persistent = persistent
        self.max_operations = max_operations
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.imports: dict[Global, None] = {}

    def run(self) -> PickleContent:
        start = self.stream.tell()
        end = self.stream.seek(0, 2)
        self.stream.seek(start)
        bounded: Any = _Bounded(self.stream)
        for _ in range(self.max_operations):
            code = self.stream.read(1)
            if not code:
                raise PickleRefusedError("it ends in the middle of the pickle (truncated)")
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise PickleRefusedError(f"byte 0x{code.hex()} is no pickle operation (damaged)")
            if opcode.name == "STOP":
                return PickleContent(self._pop(), tuple(self.imports), self.stream.tell())
            if opcode.name in _BYTE_LENGTHS:
                self.stack.append(self._bytes(_BYTE_LENGTHS[opcode.name], end))
                continue
            argument = None if opcode.arg is None else opcode.arg.reader(bounded)
            if opcode.name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                make = _CONSTANTS[opcode.name]
                self.stack.append(make())
            else:
                handler = getattr(self, f"_op_{opcode.name.lower()}", None)
                if handler is None:
                    raise PickleRefusedError(f"it uses the pickle operation {opcode.name}, which no checkpoint needs")
                handler(argument)
        raise PickleRefusedError(f"its pickle has more than {self.max_operations:,} operations")

    def _bytes(self, width: int, end: int) -> bytes | Blob:
        length = int.from_bytes(self.stream.read(width), "little")
        offset = self.stream.tell()
        if length > end - offset:
            raise PickleRefusedError(f"it claims {length:,} bytes where {end - offset:,} are left (truncated)")
        if length < BLOB_BYTES:
            return self.stream.read(length)
        self.stream.seek(offset + length)
        return Blob(self.stream, offset, length)

    # Stack and memo.

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleRefusedError("its pickle takes from an empty stack (damaged)")
        return self.stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self.stack.append(value)
        return value

    def _pop_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise PickleRefusedError("its pickle closes a group that was never opened (damaged)")

    def _op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _op_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _op_dup(self, _: Any) -> None:
        self.stack.append(self._top())

    def _op_proto(self, version: int) -> None:
        if version > 5:
            raise PickleRefusedError(f"pickle protocol {version} is unknown")

    def _op_frame(self, _: Any) -> None:
        """Ignore a frame, which only helps buffering."""

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top()

    def _op_put(self, index: int) -> None:
        self.memo[index] = self._top()

    _op_binput = _op_long_binput = _op_put

    def _op_get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleRefusedError("its pickle refers to something it never made (damaged)")
        self.stack.append(self.memo[index])

    _op_binget = _op_long_binget = _op_get

    # Containers. Sets become lists: nothing is hashed.

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self.stack.append((self._pop(),))

    def _op_tuple2(self, _: Any) -> None:
        second, first = self._pop(), self._pop()
        self.stack.append((first, second))

    def _op_tuple3(self, _: Any) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self.stack.append((first, second, third))

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    _op_frozenset = _op_list

    def _op_dict(self, _: Any) -> None:
        result: dict[Any, Any] = {}
        _set_items(result, self._pop_mark())
        self.stack.append(result)

    def _op_append(self, _: Any) -> None:
        item = self._pop()
        _extend(self._top(), [item])

    def _op_appends(self, _: Any) -> None:
        items = self._pop_mark()
        _extend(self._top(), items)

    _op_additems = _op_appends

    def _op_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _set_items(self._top(), [key, value])

    def _op_setitems(self, _: Any) -> None:
        items = self._pop_mark()
        _set_items(self._top(), items)

    # Names and calls: recorded, never performed.

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefusedError("its pickle imports something without a name (damaged)")
        found = Global(module[:200], name[:200])
        self.imports[found] = None
        self.stack.append(found)

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _op_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _call(self, callable_: Any, args: Any) -> None:
        builder = self.builders.get(str(callable_)) if isinstance(callable_, Global) else None
        if builder is None or not isinstance(args, tuple):
            self.stack.append(Foreign(callable_, args))
            return
        try:
            self.stack.append(builder(args))
        except PickleRefusedError:
            raise
        except Exception as error:
            raise PickleRefusedError(f"{callable_} has impossible arguments ({type(error).__name__})") from error

    def _op_reduce(self, _: Any) -> None:
        args, callable_ = self._pop(), self._pop()
        self._call(callable_, args)

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: Any) -> None:
        _, args, callable_ = self._pop(), self._pop(), self._pop()
        self._call(callable_, args)

    def _op_obj(self, _: Any) -> None:
        items = self._pop_mark()
        if not items:
            raise PickleRefusedError("its pickle calls nothing (damaged)")
        self._call(items[0], tuple(items[1:]))

    def _op_inst(self, argument: str) -> None:
        args = tuple(self._pop_mark())
        self._op_global(argument)
        self._call(self._pop(), args)

    def _op_build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Foreign):
            target.state = state
        elif hasattr(target, "set_state"):
            target.set_state(state)
        # Attributes of dictionaries (`_metadata` of a state dict) carry nothing that is needed.

    def _persist(self, identity: Any) -> None:
        if self.persistent is None:
            raise PickleRefusedError("its pickle refers to data outside itself")
        try:
            self.stack.append(self.persistent(identity))
        except PickleRefusedError:
            raise
        except Exception as error:
            raise PickleRefusedError(f"a storage is described impossibly ({type(error).__name__})") from error

    def _op_persid(self, identity: str) -> None:
        self._persist(identity)

    def _op_binpersid(self, _: Any) -> None:
        self._persist(self._pop())


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_BYTE_LENGTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
_PUSH_ARGUMENT = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": lambda: (),
    "EMPTY_LIST": lambda: [],
    "EMPTY_SET": lambda: [],
    "EMPTY_DICT": lambda: {},
}


def _plain(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(isinstance(k, str | int | float | bytes | bool | None) for k in key)
    return isinstance(key, str | int | float | bytes | bool | Global | None)


def _set_items(target: Any, items: Sequence[Any]) -> None:
    if len(items) % 2:
        raise PickleRefusedError("its pickle has a key without a value (damaged)")
    if isinstance(target, Foreign):
        target.items.extend(items)
        return
    if not isinstance(target, dict):
        raise PickleRefusedError("its pickle sets items of something that has none (damaged)")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _plain(key):
            raise PickleRefusedError("a dictionary in its pickle has a key that is neither text nor a number")
        target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, Foreign):
        target.items.extend(items)
    elif isinstance(target, list):
        target.extend(items)
    else:
        raise PickleRefusedError("its pickle appends to something that is no list (damaged)")


def ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """Builder for `collections.OrderedDict`: empty, or from a list of pairs."""
    result: dict[Any, Any] = {}
    for pair in args[0] if args else ():
        key, value = pair
        _set_items(result, [key, value])
    return result


def read_pickle(
    stream: BinaryIO,
    builders: Mapping[str, Builder],
    persistent: Callable[[Any], Any] | None = None,
    max_operations: int = MAX_OPERATIONS,
) -> PickleContent:
    """Describe the pickle at the stream's position without importing or calling anything it names.

    Args:
        stream: seekable binary stream.
        builders: "module.name" to a function of the call's arguments; the only calls that do anything.
        persistent: resolves persistent ids (torch's storages); None refuses them.
        max_operations: upper bound on pickle operations.

    Raises:
        PickleRefusedError: damaged, truncated, over a limit or an operation that no checkpoint needs.
    """
    machine = _Machine(stream, builders, persistent, max_operations)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools' own, about escapes in damaged texts
            return machine.run()
    except PickleRefusedError:
        raise
    except (ValueError, OverflowError, MemoryError, UnicodeError, RecursionError, TypeError, KeyError) as error:
        raise PickleRefusedError(f"its pickle is damaged ({type(error).__name__})") from error
