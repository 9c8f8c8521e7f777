"""What a target says of itself before it is imported.

The command line, recipes, doctor, bench and reports derive from these descriptors, and none of them may load torch or a
target's library to know a name: nothing here, nor in a target's `info.py`, imports more than the standard library does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Gt

from cmexport.errors import UsageError

Decibel = Annotated[float, Gt(0)]
State = Literal["works", "limited", "broken", "missing"]


@dataclass(frozen=True)
class LoweringOptions:
    """What the user asked of a target; each target has a class of its own with more fields.

    Attributes:
        precision: "fp32", "fp16", ...; must be one of the target's.
        rewrites: "all", "none" or names, for the rewrites that only this target applies.
    """

    precision: str = "fp32"
    rewrites: str = "all"


@dataclass(frozen=True)
class Option:
    """How a field of a target's options is spelled on the command line and in recipes.

    Attributes:
        field: of the options; its key in recipes too.
        help: what it does, on the command line.
        kind: type there.
        metavar: what stands for the value in `--help`.
        name: on the command line, hyphens as underscores; "": the field's. That of an option that all targets have, as
            "batch", puts this in its place.
        recipe: type in recipes; None: `kind`, or a text for a path.
        recipe_help: what it does, in the recipe's schema; "": `help`.
        typed: default on the command line, where `parse` makes the field's value.
        parse: from what was typed to the field's value.
        precisions: those that it goes with; empty: all.
        implies: the precision that giving it asks for.
    """

    field: str
    help: str
    kind: Any = bool
    metavar: str | None = None
    name: str = ""
    recipe: Any = None
    recipe_help: str = ""
    typed: Any = None
    parse: Callable[[Any], Any] | None = None
    precisions: tuple[str, ...] = ()
    implies: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether a recipe resolves it against its own folder."""
        return bool(self.kind == Path | None)


def _read_plan(path: Path) -> Any:
    from cmexport.quantize.precision_plan import read_plan

    return read_plan(path)


def keep_names(typed: str) -> tuple[str, ...]:
    """Operations to keep in float32, from `--keep-fp32` as typed.

    Raises:
        UsageError: `auto` or `none` among names, or an empty name.
    """
    names = tuple(name.strip() for name in typed.split(","))
    if names == ("none",):
        return ()
    if not all(names) or (len(names) > 1 and {"auto", "none"} & set(names)):
        raise UsageError(f"--keep-fp32 {typed}: give auto, none, or names with commas between")
    return names


PLAN = Option(
    *("plan", "int8: which layers compute in 8 bits, as `cmexport plan` writes it.", Path | None, "FILE"),
    recipe_help="int8: a plan file, or the name of a [plans] table.",
    parse=_read_plan,
    precisions=("int8",),
    implies="int8",
)
"""Which layers compute in 8 bits, for precision "int8"; None: the default by their roles."""

KEEP_FP32 = Option(
    "keep_fp32",
    "Operations left in float32 by the other precisions; auto finds those that half precision breaks.",
    *(str, "auto|none|NAME,.."),
    typed="none",
    parse=keep_names,
    precisions=("fp16", "bf16", "int8", "fp8", "w8", "w6", "w4", "mixed"),
)
"""Operations to leave in float32, by name; ("auto",) finds them."""


PACKAGING = Option(
    "packaging",
    "one: everything in one graph. staged: encode, paint and decode apart, for apps that keep a prompt or free memory.",
    *(str, "one|staged"),
)
"""How a model of latents is taken apart; see `sampling.stages`."""


@dataclass(frozen=True)
class Library:
    """How to look for a backend.

    Attributes:
        name: as users know it.
        purpose: what cmexport needs it for.
        distributions: that may bring it.
        extra: of cmexport, that installs it.
        probe: opens it and says what it can do here: a key of doctor's `PROBES`, or "module:function"; None: nothing.
        remedy: the command that brings it, where that is not the extra.
    """

    name: str
    purpose: str
    distributions: tuple[str, ...]
    extra: str | None = None
    probe: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Finding:
    """What opening an installed library showed; `remedy` is a command, where a special one is needed."""

    state: State
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class TargetInfo:
    """A target, importable in milliseconds.

    Attributes:
        name: what the command line and the artefact call it.
        title: what people call it.
        summary: its line in `cmexport --help`.
        help: of its verb.
        suffix: of its model file, or of the folder that is one.
        precisions: those it can lower to.
        loader: "module:class" of its `base.Target`.
        verified_by: what runs its files for the parity ladder.
        scope: what that ladder can't tell, off a Mac; "" where nothing is left out.
        options: what can be asked of it.
        spelled: how its own options are spelled.
        libraries: what it needs beyond a plain installation.
        devices: kinds of devices that can bench it.
        runtime: module that a device needs to run it; "" where a plain Python does.
        loop_precisions: those in which it writes a sampler as a loop; empty where it can't.
        integers: dtype of whole numbers at its border.
        outputs: forms of the output by the words for them; of two for the same, the later is the target's own.
        help_of: help of options that all targets have, where this one's differ.
    """

    name: str
    title: str
    summary: str
    help: str
    suffix: str
    precisions: tuple[str, ...]
    loader: str
    verified_by: str
    scope: str = ""
    options: type[LoweringOptions] = LoweringOptions
    spelled: tuple[Option, ...] = ()
    libraries: tuple[Library, ...] = ()
    devices: tuple[str, ...] = ()
    runtime: str = ""
    loop_precisions: tuple[str, ...] = ()
    integers: str = "int64"
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"float": "float", "uint8": "uint8"}))
    help_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def by_name(self) -> dict[str, Option]:
        """Its own options by their name on the command line."""
        return {option.name or option.field: option for option in self.spelled}

    @property
    def by_key(self) -> dict[str, Option]:
        """Its own options by their key in a recipe."""
        return {option.field: option for option in self.spelled}

    def takes(self, key: str, precision: str) -> bool:
        """Whether a recipe's option is passed on when the target is exported at a precision."""
        option = self.by_key.get(key)
        return option is not None and precision in (option.precisions or self.precisions)
