"""From a checked recipe to steps with the arguments of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmexport.demo import demo_checkpoint
from cmexport.labels import KNOWN
from cmexport.recipes.checking import checkpoint_file, resolve_path, target_of
from cmexport.recipes.names import TOKENS
from cmexport.recipes.reading import Document
from cmexport.recipes.schema import ANY_PRECISION, Device, Recipe, Schedule, Target
from cmexport.recipes.steps import KEPT, PLANS, WORK, Run, Step
from cmexport.targets.registry import INFOS
from cmexport.threads import usable_cores

# An export holds its weights several times over: as read, as the reference, folded, and in a runtime or two.
_SMALL_CHECKPOINT_BYTES = 300_000_000

# Calibration draws pictures and tries each layer: the demo model takes 70 s at int8 where fp16 takes 20.
_HEAVY = {"int8": 4, "mixed": 4, "fp8": 3, "w4": 2, "w6": 2}


@dataclass(frozen=True)
class Chosen:
    """What the command line decides instead of the recipe; None leaves it to the recipe.

    `strict` refuses a checkpoint of which a setting is guessed.
    """

    out: Path | None = None
    jobs: int | None = None
    checkpoint: Path | None = None
    threads: int | None = None
    weights: str | None = None
    overwrite: bool = False
    strict: bool = False


def checkpoint_path(document: Document, recipe: Recipe, chosen: Chosen) -> Path | None:
    """Where the checkpoint should lie; None: the demo model."""
    if chosen.checkpoint is not None:
        return chosen.checkpoint
    if recipe.checkpoint.file is None:
        return None
    return resolve_path(document, ("checkpoint", "file"), recipe.checkpoint.file)


def plan_run(document: Document, recipe: Recipe, chosen: Chosen) -> Run:
    """All steps of a recipe, each after what it needs."""
    named = checkpoint_path(document, recipe, chosen)
    checkpoint = Path(os.path.abspath(demo_checkpoint() if named is None else named))  # noqa: PTH100 - keeps links
    # Names of sets belong to a file: another file's are its own.
    weights = chosen.weights or (recipe.checkpoint.weights if chosen.checkpoint is None else None)
    steps = _Planner(document, recipe, checkpoint, weights, chosen.strict).steps()
    return Run(
        recipe=document.path,
        description=recipe.description,
        checkpoint=checkpoint,
        out=chosen.out or Path(recipe.out or Path("out") / document.path.name.removesuffix(".toml")),
        jobs=chosen.jobs or recipe.jobs or _jobs(checkpoint_file(checkpoint)),
        steps=_sorted(steps),
        threads=chosen.threads,
        overwrite=chosen.overwrite,
    )


def _jobs(checkpoint: Path) -> int:
    small = checkpoint.is_file() and checkpoint.stat().st_size <= _SMALL_CHECKPOINT_BYTES
    return 2 if small and usable_cores() >= 2 else 1


def _sorted(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Each after all it waits for; else in the order given."""
    done: list[Step] = []
    left = list(steps)
    while left:
        names = {step.name for step in left}
        ready = next(step for step in left if names.isdisjoint((*step.needs, *step.after)))
        done.append(ready)
        left.remove(ready)
    return tuple(done)


def _options(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Options with their values; None and False are left out, True is a flag."""
    arguments: list[str] = []
    for option, value in pairs:
        if value is None or value is False:
            continue
        arguments.append(option)
        if value is not True:
            arguments.append(_shown(value))
    return arguments


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_shown(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


class _Planner:
    def __init__(self, document: Document, recipe: Recipe, checkpoint: Path, weights: str | None, strict: bool) -> None:
        self._document = document
        self._strict = ["--strict"] if strict else []
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._weights = [] if weights is None else ["--weights", weights]
        # Step names by the table they come from: what `needs` and `targets` mean.
        self._of: dict[str, list[Step]] = {name: [] for name in (*recipe.targets, *recipe.plans)}

    def steps(self) -> list[Step]:
        for name in self._recipe.plans:
            self._of[name].append(self._plan(name))
        for name, target in self._recipe.targets.items():
            self._of[name] += self._exports(name, target)
        for name in self._of:
            part: Any = self._recipe.targets.get(name) or self._recipe.plans[name]
            self._of[name] = [self._needing(step, part.needs) for step in self._of[name]]
        steps = [step for made in self._of.values() for step in made]
        steps += self._verifications()
        for name, device in self._recipe.devices.items():
            steps += self._benches(name, device)
        return steps + self._report(steps)

    def _needing(self, step: Step, needs: Sequence[str]) -> Step:
        needed = tuple(other.name for name in needs for other in self._of[name])
        return replace(step, needs=(*step.needs, *needed))

    def _model(self) -> list[str]:
        settings = [f"{name}={text}" for name, text in self._recipe.checkpoint.set.items()]
        trust = ["--trust-checkpoint"] if self._recipe.checkpoint.trust else []
        if loras := self._loras():
            settings.append(f"lora={','.join(loras)}")
        chosen = (part for setting in settings for part in ("--set", setting))
        return [*self._strict, *trust, *self._weights, *chosen]

    def _weights_read(self) -> list[Path]:
        """Return the checkpoint and the LoRA files, whose hashes make a step's results stale."""
        found = [checkpoint_file(self._checkpoint)]
        if loras := self._loras():
            from cmexport.checkpoints.lora import lora_choices

            found += [choice.path for choice in lora_choices(",".join(loras))]
        return found

    def _loras(self) -> list[str]:
        """Return files with their scales as the recipe says them, from any working directory."""
        return [str(self._file(("checkpoint", "lora"), text)) for text in self._recipe.checkpoint.lora or ()]

    def _schedule(self, name: str | None) -> list[str]:
        schedule = Schedule() if name is None else self._recipe.schedules[name]
        return _options(
            [
                ("--sampler", None if schedule.is_own else schedule.sampler),
                ("--eta", schedule.eta),
                ("--gamma", schedule.gamma),
                ("--strength", schedule.strength),
                ("--steps", schedule.steps),
                ("--timesteps", schedule.timesteps),
                ("--levels", schedule.levels),
                ("--sigmas", schedule.sigmas),
            ]
        )

    def _file(self, path: tuple[str, ...], text: str) -> Path:
        return resolve_path(self._document, path, text).absolute()

    def _plan(self, name: str) -> Step:
        plan = self._recipe.plans[name]
        reads, said = self._weights_read(), None
        if plan.calibration_prompts is not None:
            said = self._file(("plans", name, "calibration_prompts"), plan.calibration_prompts)
            reads.append(said)
        options = _options(
            [
                ("--pictures", plan.pictures),
                ("--calibration", plan.calibration),
                ("--keep-db", plan.keep_db),
                ("--task", plan.task),
                ("--patch", plan.patch),
                ("--label", plan.label),
                ("--calibration-prompts", said),
                # Scoring every layer of a large model takes hours: it goes on where it was stopped.
                ("--state", f"{KEPT}/scores.json"),
            ]
        )
        return Step(
            name=f"plan:{name}",
            kind="plan",
            arguments=("plan", str(self._checkpoint), *options, *self._schedule(plan.schedule), *self._model()),
            output=f"{name}.toml",
            place="plans",
            reads=tuple(reads),
            optional=plan.optional,
            weight=8,
        )

    def _exports(self, name: str, target: Target) -> Iterator[Step]:
        kind = target_of(name, target)
        schedules: list[str | None] = [*target.schedules] if target.schedules else [None]
        several = len(schedules) > 1
        for precision in target.precisions:
            for schedule in schedules:
                parts = [name, precision, *([str(schedule)] if several else [])]
                # Folders are named after target and precision: what else tells artefacts apart needs a folder.
                folder = [name] if several or name != kind else []
                yield self._export(
                    Step(
                        name="/".join(parts),
                        kind="export",
                        arguments=(kind, str(self._checkpoint), "--precision", precision, *self._schedule(schedule)),
                        place="/".join([*folder, *([str(schedule)] if several else [])]),
                        reads=tuple(self._weights_read()),
                        target=kind,
                        gate_db=target.gate_db.get(precision, target.gate_db.get(ANY_PRECISION)),
                        optional=target.optional,
                        weight=_HEAVY.get(precision, 1),
                    ),
                    name,
                    target,
                    precision,
                )

    def _export(self, step: Step, name: str, target: Target, precision: str) -> Step:
        """The step with the options of its target."""
        info = INFOS[step.target]
        own: dict[str, Any] = {key: target.own(key) for key in info.by_key if info.takes(key, precision)}
        reads, needs = list(step.reads), list(step.needs)
        if (plan := own.get("plan")) is not None:
            if plan in self._recipe.plans:
                needs.append(f"plan:{plan}")
                own["plan"] = _plan_of(plan)
            else:
                own["plan"] = self._file(("targets", name, "plan"), plan)
                reads.append(own["plan"])
        for key, option in info.by_key.items():
            if option.is_file and key != "plan" and own.get(key) is not None:
                own[key] = self._file(("targets", name, key), own[key])
        labels: Path | str | None = self._recipe.checkpoint.labels
        if labels is not None and labels not in KNOWN:
            labels = self._file(("checkpoint", "labels"), str(labels))
            reads.append(labels)
        said: dict[str, Path | None] = dict.fromkeys(("prompts", "calibration_prompts"))
        for key in said:
            if (listed := getattr(target, key)) is not None:
                reads.append(self._file(("targets", name, key), listed))
                said[key] = reads[-1]
        decoder = target.decoder
        if decoder is not None and decoder.startswith("tiny:"):
            decoder = f"tiny:{self._file(('targets', name, 'decoder'), decoder.removeprefix('tiny:'))}"
        options = _options(
            [
                ("--labels", labels),
                ("--task", None if target.tasks == ["generate"] else target.tasks),
                ("--patch", target.patch),
                ("--label", target.label),
                ("--prompt", target.prompt),
                ("--prompts", said["prompts"]),
                ("--condition", None if target.condition == TOKENS else target.condition),
                ("--guidance", target.guidance),
                ("--guidance-input", target.guidance_input),
                ("--calibration-prompts", said["calibration_prompts"]),
                *(("--levels-of", f"{name}={levels}") for name, levels in target.levels_of.items()),
                ("--output-transform", target.output_transform),
                ("--decoder", decoder),
                ("--batch", None if target.batch == 1 or own.get("batches") else target.batch),
                ("--output", None if target.output == "float" else target.output),
                ("--rewrites", None if target.rewrites == "all" else target.rewrites),
                ("--seeds", target.seeds),
                ("--no-verify", not target.verify),
                *((f"--{(info.by_key[key].name or key).replace('_', '-')}", value) for key, value in own.items()),
            ]
        )
        arguments = (*step.arguments, *options, *self._model())
        return replace(step, arguments=arguments, reads=tuple(reads), needs=tuple(needs))

    def _chosen(self, names: Sequence[str] | None, precisions: Sequence[str] | None) -> list[Step]:
        """Exports of some tables, at some precisions."""
        made = [step for name in (names or self._recipe.targets) for step in self._of[name]]
        return [step for step in made if precisions is None or step.name.split("/")[1] in precisions]

    def _verifications(self) -> Iterator[Step]:
        verify = self._recipe.verify
        if verify is None:
            return
        features, reads = verify.features, []
        if features.endswith((".pt", ".pth", ".safetensors")):
            reads.append(self._file(("verify", "features"), features))
            features = str(reads[-1])
        statistics = None if verify.statistics is None else self._file(("verify", "statistics"), verify.statistics)
        options = _options(
            [
                ("--features", features),
                ("--statistics", statistics),
                ("--count", verify.count),
                ("--seed", verify.seed),
                ("--batch", verify.batch),
                ("--max-distance", verify.max_distance),
            ]
        )
        for step in self._chosen(verify.targets, verify.precisions):
            yield Step(
                name=f"verify:{step.name}",
                kind="verify",
                arguments=("verify", *options),
                output=None,
                place="verify",
                reads=(*reads, *([] if statistics is None else [statistics])),
                needs=(step.name,),
                after=(step.name,),
                optional=verify.optional,
                weight=3,
            )

    def _benches(self, name: str, device: Device) -> Iterator[Step]:
        spec = device.device or name
        made = self._chosen(device.targets, device.precisions)
        if device.targets is None:
            made = [step for step in made if spec.partition("://")[0] in INFOS[step.target].devices]
        files = {
            key: self._file(("devices", name, key), str(getattr(device, key)))
            for key in ("identity", "known_hosts", "native")
            if getattr(device, key) is not None
        }
        options = _options(
            [
                ("--device", spec),
                *((f"--{k}", getattr(device, k)) for k in ("runs", "seconds", "threads", "sustained", "repeats")),
                *((f"--{k}", getattr(device, k)) for k in ("energy", "provider", "pictures", "task", "python")),
                *((f"--{k}", getattr(device, k)) for k in ("host", "port")),
                ("--max-seconds", device.max_seconds),
                ("--require-quiet", device.require_quiet),
                *((f"--{k.replace('_', '-')}", file) for k, file in files.items()),
            ]
        )
        groups = _apart(made)
        for index, group in enumerate(groups):
            own = name if len(groups) == 1 else f"{name}-{index + 1}"
            yield self._needing(
                Step(
                    name=f"bench:{own}",
                    kind="bench",
                    arguments=("bench", *options),
                    output=f"{own}.jsonl",
                    place="bench",
                    reads=tuple(files.values()),
                    after=tuple(step.name for step in group),
                    optional=device.optional,
                    alone=True,
                    weight=len(group),
                ),
                device.needs,
            )

    def _title(self) -> str:
        return self._recipe.description or self._document.path.name.removesuffix(".toml")

    def _report(self, steps: Sequence[Step]) -> list[Step]:
        report = self._recipe.report
        if report is None:
            return []
        return [
            Step(
                name="report",
                kind="report",
                arguments=("report", "--markdown", f"{WORK}/{report.markdown}", "--title", self._title()),
                output=report.html,
                after=tuple(step.name for step in steps if step.kind in ("export", "bench", "verify")),
            )
        ]


def _plan_of(name: str) -> str:
    """Stands in the arguments for the file that a [plans] table writes, until the output folder is known."""
    return f"{PLANS}/{name}.toml"


def _apart(steps: Sequence[Step]) -> list[list[Step]]:
    """Exports in groups in which folder names are unique: bench tells artefacts apart by them."""
    groups: list[list[Step]] = []
    for step in steps:
        key = _folder_key(step)
        group = next((g for g in groups if key not in map(_folder_key, g)), None)
        if group is None:
            groups.append([step])
        else:
            group.append(step)
    return groups


def _folder_key(step: Step) -> tuple[str, ...]:
    """What the name of the artefact's folder depends on: target, precision, and the sampler where it is Heun's."""
    heun = step.arguments[step.arguments.index("--sampler") :][:4] if "--sampler" in step.arguments else ()
    return (step.target, step.arguments[3], *heun)
