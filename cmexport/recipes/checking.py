"""From merged data to a `Recipe` that can be planned; every fault with its line and the nearest valid name."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file
from cmexport.labels import KNOWN
from cmexport.recipes.cycles import find_cycle
from cmexport.recipes.identity import tree_hash
from cmexport.recipes.names import EMBEDDINGS, LOOPED, owners
from cmexport.recipes.nearest import nearest, nearest_file
from cmexport.recipes.reading import Document
from cmexport.recipes.schema import ANY_PRECISION, Recipe, Target
from cmexport.recipes.toml_lines import KeyPath
from cmexport.targets.info import TargetInfo
from cmexport.targets.registry import INFOS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DEVICE_KINDS = ("local", "browser", "adb")
_DEVICE_FORMS = ("local", "ssh://user@host", "adb://serial", "browser", "folder://DIR")
# More are true at once after one typo in a table's name; a message has three lines at most.
_SHOWN = 3


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and the path of the entry to mend."""

    path: KeyPath
    text: str


def check_document(document: Document) -> Recipe:
    """The recipe a document holds.

    Raises:
        UsageError: up to three faults, a line each, in the order in which they stand.
    """
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        raise _refused(document, [_schema_fault(document, e) for e in error.errors(include_url=False)]) from None
    faults = list(_faults(document, recipe))
    if faults:
        raise _refused(document, faults)
    return recipe


def missing_checkpoint(document: Document, recipe: Recipe, file: Path | None) -> UsageError | None:
    """The error to raise before work starts, where the checkpoint is not there; None where it is.

    Args:
        document: for the line.
        recipe: says where to get it.
        file: where it should lie; None: the demo model, which is always there.
    """
    if file is not None:
        require_file(checkpoint_file(file), "a checkpoint", folder=True)
    if file is None or checkpoint_file(file).exists():
        return None
    place = document.place(("checkpoint", "file"))
    where = (
        "" if recipe.checkpoint.url is None else f"\nget it from {recipe.checkpoint.url}, or name it: --checkpoint FILE"
    )
    return UsageError(f"{place}: there is no checkpoint {file}{nearest_file(file)}{where}")


def check_hash(document: Document, recipe: Recipe, file: Path | None) -> None:
    """Compare the checkpoint with the hash that the recipe names, if it names one.

    Raises:
        CheckpointError: it is another file, or can't be read.
    """
    wanted = recipe.checkpoint.sha256
    if wanted is None or file is None:
        return
    found = tree_hash(checkpoint_file(file))
    if found != wanted:
        place = document.place(("checkpoint", "sha256"))
        raise CheckpointError(f"{place}: {file.name} has the SHA-256 {found}; it is another file or damaged")


def checkpoint_file(checkpoint: Path) -> Path:
    """The file or folder to look at: of `module.py:build`, the module."""
    module, colon, _ = str(checkpoint).rpartition(":")
    return Path(module) if colon and module.endswith(".py") else checkpoint


def resolve_path(document: Document, path: KeyPath, text: str) -> Path:
    """A path written in a recipe: relative to the file it stands in."""
    return document.place(path).file.parent / Path(text).expanduser()


def target_of(name: str, target: Target) -> str:
    """What a `[targets.NAME]` table exports to."""
    return target.target or name


def _refused(document: Document, faults: list[Fault]) -> UsageError:
    # An entry that several alternatives refuse is told once.
    told = {str(document.place(f.path)) + f.text: f for f in faults}
    order = {file: index for index, file in enumerate(document.files)}
    placed = sorted(
        ((document.place(f.path), f.text) for f in told.values()), key=lambda p: (order.get(p[0].file, 0), p[0].line)
    )
    lines = [f"{place}: {text}" for place, text in placed[:_SHOWN]]
    if len(placed) > _SHOWN:
        lines[-1] += f" (and {len(placed) - _SHOWN} more faults)"
    return UsageError("\n".join(lines))


def _schema_fault(document: Document, error: ErrorDetails) -> Fault:
    """A fault that pydantic found, in words of a recipe."""
    path = _known_part(document, error["loc"])
    name = str(path[-1]) if path else ""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        path = tuple(error["loc"])
        known = _keys_at(path[:-1])
        return Fault(path, f'unknown key "{path[-1]}"{nearest(str(path[-1]), known)}')
    if kind == "missing":
        return Fault(path, f'key "{error["loc"][-1]}" is missing in [{_dotted(path)}]')
    if kind in ("literal_error", "enum"):
        expected = [a or b for a, b in re.findall(r"'([^']*)'|(\d+)", str(context.get("expected", "")))]
        said = error["input"]
        what = f'"{said}"' if isinstance(said, str) else str(said)[:60]
        key = next((str(part) for part in reversed(path) if isinstance(part, str)), name)
        return Fault(path, f"{key}: unknown value {what}{nearest(str(said), expected)}")
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = f", not {_shown(given)}" if kind.endswith("_type") else ""
    return Fault(path, f"{_dotted(path)}: {message[:1].lower()}{message[1:]}{shown}")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)[:60]


def _known_part(document: Document, loc: tuple[int | str, ...]) -> KeyPath:
    """The longest beginning of pydantic's location that is an entry; beyond that are names of its own."""
    for length in range(len(loc), 0, -1):
        if loc[:length] in document.places:
            return loc[:length]
    return loc


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path if isinstance(part, str)) or "the recipe"


def _keys_at(path: KeyPath) -> list[str]:
    """Keys that the table at a path may hold."""
    found: Any = Recipe
    for part in path:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = None if field is None else field.annotation
        else:
            found = next(iter(typing.get_args(found)[1:]), None)
        options = [a for a in typing.get_args(found) if isinstance(a, type) and issubclass(a, BaseModel)]
        if options and typing.get_origin(found) is not dict:
            found = options[0]
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _faults(document: Document, recipe: Recipe) -> Iterator[Fault]:
    """Everything that needs more than one entry to judge."""
    yield from _name_faults(recipe)
    yield from _checkpoint_faults(recipe)
    yield from _schedule_faults(recipe)
    for name, target in recipe.targets.items():
        yield from _target_faults(document, recipe, name, target)
    for name, plan in recipe.plans.items():
        if plan.schedule is not None:
            yield from _unknown(("plans", name, "schedule"), "schedule", plan.schedule, recipe.schedules)
        yield from _file_faults(document, ("plans", name, "calibration_prompts"), plan.calibration_prompts)
    for name, device in recipe.devices.items():
        yield from _device_faults(name, device.device)
        for key in ("identity", "known_hosts", "native"):
            yield from _file_faults(document, ("devices", name, key), getattr(device, key))
        yield from _choice_faults(recipe, ("devices", name), device.targets)
    if recipe.checkpoint.labels not in KNOWN:
        yield from _file_faults(document, ("checkpoint", "labels"), recipe.checkpoint.labels)
    if recipe.verify is not None:
        yield from _choice_faults(recipe, ("verify",), recipe.verify.targets)
        yield from _file_faults(document, ("verify", "statistics"), recipe.verify.statistics)
        if recipe.verify.features.endswith((".pt", ".pth", ".safetensors")):
            yield from _file_faults(document, ("verify", "features"), recipe.verify.features)
    if recipe.report is not None:
        for key in ("html", "markdown"):
            if Path(getattr(recipe.report, key)).name != getattr(recipe.report, key):
                yield Fault(("report", key), f"report.{key}: a file name in the output folder is expected, no path")
    yield from _need_faults(recipe)
    if not (recipe.targets or recipe.plans):
        yield Fault((), "nothing to do: there is no [targets] table; e.g. [targets.onnx]")


def _name_faults(recipe: Recipe) -> Iterator[Fault]:
    owner: dict[str, str] = {}
    for table in ("targets", "plans", "devices", "schedules"):
        for name in getattr(recipe, table):
            if not _NAME.fullmatch(name):
                yield Fault((table, name), f'"{name[:60]}": names are letters, digits, "-" and "_"')
            if table == "schedules":
                continue
            if name in owner:
                yield Fault((table, name), f'"{name}" is a name in [{owner[name]}] too; names tell steps apart')
            owner.setdefault(name, table)


def _checkpoint_faults(recipe: Recipe) -> Iterator[Fault]:
    if not recipe.checkpoint.set:
        return
    if recipe.checkpoint.lora is not None and "lora" in recipe.checkpoint.set:
        yield Fault(("checkpoint", "set", "lora"), "lora is said twice, here and as checkpoint.lora")
    from cmexport.checkpoints.settings import KNOWN_SETTINGS, OPENAI_FLAGS, parse_overrides

    for name, text in recipe.checkpoint.set.items():
        if name not in KNOWN_SETTINGS and name not in OPENAI_FLAGS:
            yield Fault(("checkpoint", "set", name), f'unknown field "{name}"{nearest(name, KNOWN_SETTINGS)}')
            continue
        try:
            parse_overrides({name: text}, "")
        except UsageError as error:
            yield Fault(("checkpoint", "set", name), str(error))


def _schedule_faults(recipe: Recipe) -> Iterator[Fault]:
    for name, schedule in recipe.schedules.items():
        path = ("schedules", name)
        given = [key for key in ("steps", "timesteps", "sigmas") if getattr(schedule, key) is not None]
        if len(given) > 1:
            yield Fault((*path, given[1]), f"give one of {given[0]} and {given[1]}, they contradict each other")
        if schedule.levels is not None and schedule.timesteps is None:
            yield Fault((*path, "levels"), "levels only says what timesteps counts in")
        for key in ("timesteps", "sigmas"):
            values = getattr(schedule, key)
            if values is not None and any(later >= earlier for earlier, later in pairwise(values)):
                yield Fault((*path, key), f"{key} must descend")
        if schedule.timesteps is not None:
            top = None if schedule.levels is None else schedule.levels - 2
            # Without levels they may be a latent model's own, which end where its user likes.
            if schedule.timesteps[-1] != 0 and schedule.levels is not None:
                yield Fault((*path, "timesteps"), "timesteps must end in 0, as in diffusers: [22, 0]")
            elif top is not None and schedule.timesteps[0] > top:
                yield Fault((*path, "timesteps"), f"timesteps of {schedule.levels} levels start at {top} at most")
        if not schedule.is_own and schedule.steps is None:
            yield Fault((*path, "sampler"), f'sampler = "{schedule.sampler}" needs steps, e.g. steps = 18')


def _target_faults(document: Document, recipe: Recipe, name: str, target: Target) -> Iterator[Fault]:
    path = ("targets", name)
    kind = target_of(name, target)
    if kind not in INFOS:
        hint = nearest(name, INFOS)
        yield Fault(path, f'unknown target "{name}"{hint} (a name of your own needs target = "onnx" or another)')
        return
    info = INFOS[kind]
    for index, precision in enumerate(target.precisions):
        if precision not in info.precisions:
            hint = nearest(precision, info.precisions)
            yield Fault((*path, "precisions", index), f'{kind} has no precision "{precision}"{hint}')
        if precision in target.precisions[:index]:
            yield Fault((*path, "precisions", index), f'"{precision}" comes twice')
    for key in sorted(target.model_fields_set):
        have = owners(key)
        if have and kind not in have:
            yield Fault(
                (*path, key), f"{kind} has no {key}; {' and '.join(have)} {'has' if len(have) == 1 else 'have'}"
            )
        elif have and not any(info.takes(key, precision) for precision in target.precisions):
            yield Fault((*path, key), f"{key} goes with none of the precisions {', '.join(target.precisions)}")
    yield from _option_faults(path, info, target)
    yield from _gate_faults(path, target)
    for index, schedule in enumerate(target.schedules or ()):
        yield from _unknown((*path, "schedules", index), "schedule", schedule, recipe.schedules)
        if schedule in (target.schedules or ())[:index]:
            yield Fault((*path, "schedules", index), f'"{schedule}" comes twice')
        found = recipe.schedules.get(schedule)
        if found is None or found.is_own:
            continue
        if found.sampler in LOOPED and not info.loop_precisions:
            able = " and ".join(other.name for other in INFOS.values() if other.loop_precisions)
            yield Fault((*path, "schedules", index), f"{kind} has no {found.sampler} sampler; {able} has")
        elif target.tasks != ["generate"]:
            yield Fault((*path, "tasks"), f"the {found.sampler} sampler only generates")
    if (plan := target.own("plan")) is not None and plan not in recipe.plans:
        known = f"; or did you mean a plan of this recipe: {', '.join(recipe.plans)}" if recipe.plans else ""
        yield from _file_faults(document, (*path, "plan"), plan, known)
    for key in ("prompts", "calibration_prompts"):
        yield from _file_faults(document, (*path, key), getattr(target, key))


def _option_faults(path: KeyPath, info: TargetInfo, target: Target) -> Iterator[Fault]:
    if "mixed" in target.precisions and target.own("budget_db") is None:
        yield Fault((*path, "precisions"), 'precision "mixed" needs budget_db, e.g. budget_db = 45')
    if target.own("budget_db") is not None and target.own("budget_latency") is not None:
        yield Fault((*path, "budget_latency"), "budget_db and budget_latency: one budget at a time")
    if target.output not in info.outputs:
        have = [other for other, it in INFOS.items() if target.output in it.outputs]
        hint = f'; did you mean "{list(info.outputs)[-1]}"?'
        yield Fault((*path, "output"), f'output: "{target.output}" is for {" and ".join(have)}{hint}')
    for index, task in enumerate(target.tasks):
        if task in target.tasks[:index]:
            yield Fault((*path, "tasks", index), f'"{task}" comes twice')
    embedded = target.condition == EMBEDDINGS or None
    forms = {"prompt": target.prompt, "prompts": target.prompts, "condition": embedded}
    if len(given := [key for key, value in forms.items() if value is not None]) > 1:
        yield Fault((*path, given[1]), f"{given[0]} and {given[1]} contradict each other: a prompt comes in one form")
    if target.calibration_prompts is not None and (fixed := [key for key in given if key != "condition"]):
        known = f"calibration_prompts and {fixed[0]} contradict each other: the graph knows no other prompts"
        yield Fault((*path, "calibration_prompts"), known)
    if target.guidance is not None and target.guidance_input:
        yield Fault((*path, "guidance_input"), "guidance and guidance_input contradict each other")
    if target.patch is not None and "superres" not in target.tasks:
        yield Fault((*path, "patch"), "patch is for the task superres")


def _gate_faults(path: KeyPath, target: Target) -> Iterator[Fault]:
    if not target.gate_db:
        return
    from cmexport.parity.gates import GATES_DB

    if not target.verify:
        yield Fault((*path, "gate_db"), "gate_db has nothing to judge with verify = false")
    for precision, gate in target.gate_db.items():
        everywhere = precision == ANY_PRECISION
        entry = (*path, "gate_db") if everywhere else (*path, "gate_db", precision)
        if not everywhere and precision not in target.precisions:
            yield Fault(
                entry, f'gate_db: "{precision}" is none of the precisions{nearest(precision, target.precisions)}'
            )
            continue
        for judged in target.precisions if everywhere else (precision,):
            own = GATES_DB.get(judged, 0.0)
            if gate < own and target.output == "float":
                yield Fault(
                    entry, f"gate_db {gate:g} is below cmexport's own gate for {judged}, {own:g}, which holds anyway"
                )


def _device_faults(name: str, device: str | None) -> Iterator[Fault]:
    path, said = (("devices", name), name) if device is None else (("devices", name, "device"), device)
    kind, separator, rest = said.partition("://")
    whole = kind in _DEVICE_KINDS and not separator
    prefixed = kind in ("ssh", "adb", "folder") and bool(rest)
    if not whole and not prefixed:
        hint = nearest(said, _DEVICE_FORMS)
        own = ' (a name of your own needs device = "local" or another)' if device is None else ""
        yield Fault(path, f'unknown device "{said[:60]}"{hint}{own}')


def _choice_faults(recipe: Recipe, path: KeyPath, chosen: list[str] | None) -> Iterator[Fault]:
    for index, name in enumerate(chosen or ()):
        yield from _unknown((*path, "targets", index), "target", name, recipe.targets)


def _unknown(path: KeyPath, what: str, name: str, known: Mapping[str, Any]) -> Iterator[Fault]:
    if name not in known:
        none = "" if known else f"; this recipe has no [{what}s]"
        yield Fault(path, f'unknown {what} "{name}"{nearest(name, known)}{none}')


def _file_faults(document: Document, path: KeyPath, text: str | None, known: str = "") -> Iterator[Fault]:
    if text is None:
        return
    file = resolve_path(document, path, text)
    if file.exists() and not file.is_file():
        yield Fault(path, f"{path[-1]}: {file} is {'a folder' if file.is_dir() else 'no regular file'}, not a file")
    elif not file.exists():
        yield Fault(path, f"{path[-1]}: there is no file {file}{nearest_file(file) or known}")


def _need_faults(recipe: Recipe) -> Iterator[Fault]:
    """Unknown needs, and circles among them; an int8 target needs the plan it names."""
    tables = {**dict.fromkeys(recipe.targets, "targets"), **dict.fromkeys(recipe.plans, "plans")}
    edges: dict[str, list[str]] = {}
    for table in ("targets", "plans", "devices"):
        for name, part in getattr(recipe, table).items():
            for index, need in enumerate(part.needs):
                yield from _unknown((table, name, "needs", index), "table", need, tables)
            edges[name] = [need for need in part.needs if need in tables]
    for name, target in recipe.targets.items():
        if target.own("plan") in recipe.plans:
            edges[name] = [*edges[name], str(target.own("plan"))]
    if cycle := find_cycle(edges):
        table = tables.get(cycle[0], "devices")
        yield Fault((table, cycle[0], "needs"), f"a circle: {' needs '.join([*cycle, cycle[0]])}")
