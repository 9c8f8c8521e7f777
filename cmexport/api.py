"""What Python users call: `load`, `export`, `open`, and the artefact that the latter two return.

The command line's words mean the same here: `--set sigma_data=0.5` is `sigma_data=0.5`, `--steps 2` is `steps=2`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from cmexport.arguments import in_arguments, speaks_of_arguments
from cmexport.artifact import Manifest, artifact_folder, read_manifest
from cmexport.checkpoints import load as load_network
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.sidecar import as_text
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError, ParityError, UsageError
from cmexport.exporting import ExportOptions, export_functions
from cmexport.kits import make_kit, platform_named
from cmexport.labels import named, number_of
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.parity.ladder import ParityReport
from cmexport.progress import Progress
from cmexport.quantize.precision_plan import PrecisionPlan, read_plan
from cmexport.runner import Array
from cmexport.sampling.editing import task_named
from cmexport.sampling.methods import method_named, schedule_of_strength
from cmexport.sampling.schedules import EXPORTED_EDITING_STEPS, Schedule
from cmexport.sources import TORCH, draw_pictures, source_from_artifact
from cmexport.targets.info import LoweringOptions, TargetInfo
from cmexport.targets.registry import INFOS, target_info
from cmexport.tokenizer import read_prompts
from cmexport.verification import VerifyOptions, verify_artifact

TARGET_OPTIONS = tuple({field.name: None for info in INFOS.values() for field in fields(info.options)})
"""What `export` takes besides its own arguments, of one target or another."""


class GuessWarning(UserWarning):
    """A constant that the checkpoint does not hold was guessed; the message names it and how to state it."""


@speaks_of_arguments()
def load(
    source: str | Path | nn.Module | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    /,
    *,
    weights: str | None = None,
    trust: bool = False,
    strict: bool = False,
    **more: Any,
) -> ConsistencyModel:
    """Read a checkpoint, or wrap a network that is in memory already.

    Args:
        source: a checkpoint file, a diffusers folder, a hub id, "my_module.py:build" (which is run), or a network; None
            for the packaged demo model (CIFAR-10, 32x32, 10 classes).
        settings: constants by name, as `cmexport inspect` lists them: {"sigma_data": 0.5}. A network needs
            `image_size` at least.
        weights: which of several sets of weights in a file: a prefix, "ema", a subfolder.
        trust: read the file with Python's full unpickler, which runs any code inside it.
        strict: refuse to guess.
        more: further settings.

    Raises:
        CheckpointError: the source is missing, damaged, unsafe or no consistency model; `strict`, and there is a guess.
        UsageError: a setting is unknown, malformed or contradicts the weights.
        BackendError: the format needs a library that is not installed.

    Warns:
        GuessWarning: for each constant that was guessed.
    """
    stated = {**settings, **more}
    if isinstance(source, nn.Module):
        model = load_network(source, stated)
    else:
        path = demo_checkpoint() if source is None else source
        texts = {name: as_text(value) for name, value in stated.items()}
        model = load_checkpoint(path, texts, trust=trust, weights=weights)
    for setting in model.settings:
        if setting.remark:
            warnings.warn(in_arguments(setting.remark, ("settings",)), GuessWarning, stacklevel=3)
    if strict and model.assumed:
        listed = ", ".join(f"{s.name}={s.text} ({s.origin})" for s in model.assumed)
        raise CheckpointError(f"{model.source.path}: guessed: {listed}; state them as arguments")
    for setting in model.assumed:
        said = f"assumed {setting.name}={setting.text} ({setting.origin}); state it: load(..., {setting.name}=...)"
        warnings.warn(said, GuessWarning, stacklevel=3)
    return model


@speaks_of_arguments(*TARGET_OPTIONS)
def export(
    model: ConsistencyModel,
    target: str = "onnx",
    *,
    precision: str = "fp32",
    steps: int | Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    strength: float | None = None,
    task: str | Sequence[str] = "generate",
    sampler: str = "consistency",
    eta: float | None = None,
    gamma: float | None = None,
    patch: int | None = None,
    label: int | str | None = None,
    labels: str | Path | Sequence[str] | None = None,
    prompt: str | None = None,
    prompts: str | Path | Sequence[str] | None = None,
    condition: str = "tokens",
    guidance: float | None = None,
    guidance_input: bool = False,
    calibration_prompts: str | Path | Sequence[str] | None = None,
    levels_of: Mapping[str, int] = MappingProxyType({}),
    output_transform: str | None = None,
    batch: int = 1,
    output: str = "float",
    plan: PrecisionPlan | Path | str | None = None,
    seeds: int | None = None,
    verify: bool = True,
    overwrite: bool = False,
    out: Path | str = "out",
    **target_options: Any,
) -> Artifact:
    """Write one verified artefact: sampler, preconditioning and network as a graph of the target's format.

    Args:
        model: from `load`; it can be used again afterwards.
        target: "onnx", "coreml", "tensorrt" or "coreai".
        precision: "fp32", "fp16", "int8", "w8" and others, by target.
        steps: evaluations of the network; None: 1, or the task's own. Several for packaging="staged": each is a run of
            the artefact.
        sigmas: noise levels in place of `steps`, largest first.
        strength: of latent few-step models, how much of a picture to edit is painted anew, above 0, at most 1; implies
            task "stroke", image to image.
        task: "generate", "inpaint", "colorize", "superres", "stroke" or "denoise"; several make a graph each.
        sampler: "consistency"; "heun" for the diffusion model that a consistency model came from; "exact", a CTM
            network's jumps without noise, and "gamma", with; "euler", steps of the probability-flow ODE or of a
            velocity model; "tcd" for latent few-step models.
        eta: noise between TCD's steps, 0 (none) to 1; None: the model's own.
        gamma: noise between a CTM network's jumps, 0 (none) to 1; None: 0.5.
        patch: for "superres", pixels of the large picture per pixel of the small one.
        label: a class to bake in, by number or name; None: an input.
        labels: names of the classes: a known set ("cifar10"), a file with one a line or a JSON list, or the names.
        prompt: a prompt to bake in.
        prompts: a closed list of them, a file with one a line or the texts; the graph takes the number of one.
        condition: what a graph takes that has neither: "tokens", or "embeddings" of a text encoder.
        guidance: scale to bake in; None: the model's usual one.
        guidance_input: leave it to the app.
        calibration_prompts: what calibration and verification say, a file with one a line or the texts; None: a
            packaged list.
        levels_of: to how many equally spaced values a number that the graph takes is rounded, and tabulated:
            {"difficulty": 100}.
        output_transform: what pictures mean, computed in the graph: "heights", in metres.
        batch: pictures per run.
        output: "float", (N, C, H, W) float32 in [-1, 1], or "uint8", (N, H, W, C) bytes.
        plan: for "int8", which layers; a file that `cmexport plan` wrote, or the plan itself.
        seeds: pictures compared with PyTorch, 8 or more; None: 64, fewer for large models.
        verify: compare at all.
        overwrite: replace whatever stands in the artefact's place; an older export of the same needs no leave.
        out: folder to write the artefact's folder into.
        target_options: options of this target alone, as fields of its options: ep="web", ios=17, budget_db=60.

    Raises:
        ParityError: the file's pictures leave the precision's gate; the folder is kept, named `*.rejected`.
        UsageError: an argument contradicts the model or the target.
        BackendError: a library is missing or refuses the graph.
        OutputError: `out` can't be written.
    """
    info = target_info(target)
    if precision not in info.precisions:
        raise UsageError(f"precision={precision!r}: {target} has {', '.join(info.precisions)}")
    if output not in ("float", "uint8"):
        raise UsageError(f"output={output!r}: known are 'float' and 'uint8'")
    if labels is not None:
        model = replace(model, labels=named(labels, model.classes))
    asked = _pictures(seeds, "; verify=False skips the comparison")
    tasks = [task] if isinstance(task, str) else list(task)
    if strength is not None and tasks == ["generate"]:
        tasks = ["stroke"]
    counts = tuple(steps) if isinstance(steps, Sequence) else (steps,)
    requests = [
        SampleRequest(
            **_schedule(model, name, sampler, count, sigmas, strength),
            label=None if label is None else number_of(label, model.labels, model.classes),
            batch=batch,
            output=output,
            task=name,
            patch=patch if name == "superres" or "superres" not in tasks else None,
            sampler=sampler,
            eta=eta,
            gamma=gamma,
            prompt=prompt,
            prompts=_listed("prompts", prompts),
            condition=condition,
            guidance=guidance,
            guidance_input=guidance_input,
            calibration_prompts=_listed("calibration_prompts", calibration_prompts),
            levels_of=dict(levels_of),
            output_transform=output_transform,
        )
        for count in counts
        for name in tasks
    ]
    options = ExportOptions(
        target=target,
        lowering=_lowering(info, precision, plan, target_options),
        verify=asked if verify else None,
        overwrite=overwrite,
    )
    result = export_functions(model, requests, options, Path(out))
    artifact = Artifact(result.folder)
    if result.parity is not None and not result.parity.passed:
        raise ParityError(f"{result.folder}: its pictures leave the gate; see parity in its manifest.json")
    return artifact


def _pictures(seeds: int | None, otherwise: str = "") -> VerifyOptions:
    """How much to verify: an explicit number is kept whatever it takes."""
    if seeds is None:
        return VerifyOptions()
    if seeds < 8:
        raise UsageError(f"seeds={seeds}: at least 8 pictures are compared{otherwise}")
    return VerifyOptions(pictures=seeds, large_model_budget_s=None)


def _listed(argument: str, prompts: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """Prompts as given, or out of a file."""
    if isinstance(prompts, str | Path):
        return read_prompts(Path(prompts))
    if prompts is not None and not prompts:
        raise UsageError(f"{argument}: an empty list; give at least one prompt")
    return tuple(prompts or ())


def _schedule(
    model: ConsistencyModel,
    task: str,
    sampler: str,
    steps: int | None,
    sigmas: Sequence[float] | None,
    strength: float | None,
) -> dict[str, Any]:
    task_named(task)
    method = method_named(sampler, task)
    if steps is not None and sigmas is not None:
        raise UsageError("steps and sigmas contradict each other: give one of them")
    if strength is not None and task != "generate":
        if sigmas is not None:
            raise UsageError("strength and sigmas contradict each other: both say where to start")
        chosen = schedule_of_strength(model, sampler, steps, task, strength)
    elif sigmas is not None:
        chosen = Schedule(tuple(float(sigma) for sigma in sigmas), f"sigmas{method.ending}")
    else:
        chosen = method.spaced(model, steps, task, EXPORTED_EDITING_STEPS)
    return {"sigmas": chosen.sigmas, "schedule": chosen.origin}


def _lowering(
    info: TargetInfo, precision: str, plan: PrecisionPlan | Path | str | None, more: Mapping[str, Any]
) -> LoweringOptions:
    if plan is not None:
        more = {**more, "plan": plan if isinstance(plan, PrecisionPlan) else read_plan(Path(plan))}
    known = {field.name: field.default for field in fields(info.options)}
    if unknown := [name for name in more if name not in known]:
        raise UsageError(f"{info.name} has no option {unknown[0]}; it has {', '.join(sorted(known))}")
    return info.options(precision=precision, **{name: _of_the_kind(known[name], more[name]) for name in more})


def _of_the_kind(default: object, value: Any) -> Any:
    """One value where several may be given is a sequence of one: "auto" is no list of letters."""
    if not isinstance(default, tuple):
        return value
    return (value,) if isinstance(value, str | int) else tuple(value)


@speaks_of_arguments()
def open(folder: Path | str) -> Artifact:
    """Open an artefact that was written earlier, by its folder or any file in it.

    Raises:
        CheckpointError: there is none, or a file of it is not what its manifest says.
    """
    found = artifact_folder(str(folder))
    if found is None:
        raise CheckpointError(f"{folder}: not an artefact; expected a folder with manifest.json, or a file in one")
    read_manifest(found)
    return Artifact(found)


@dataclass(frozen=True)
class Artifact:
    """A folder with a model, its manifest and a preview; it draws in the runtime that it was made for."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        """What the folder says of itself: border, steps, precision, parity, checkpoint."""
        return read_manifest(self.folder, check=False)

    @speaks_of_arguments("image", "label", "mask")
    def sample(
        self,
        seed: int = 0,
        *,
        count: int = 1,
        task: str | None = None,
        prompt: str | int | Sequence[str] | None = None,
        noise: str = TORCH,
        **given: Array | float | str,
    ) -> Array:
        """Draw pictures: (count, C, H, W) float32 in [-1, 1], or (count, H, W, C) bytes, as the artefact was made.

        Args:
            seed: of the first picture; picture i has seed + i.
            count: how many.
            task: which graph, of several; None: the first.
            prompt: what the pictures show; of several texts each in turn. In a closed list the number will do.
            noise: how noise is made of a seed: "torch", as in PyTorch's reference, or "cmx1", as in kits.
            given: inputs that are not to be drawn, the same for all pictures: label=8 or label="ship",
                image=(C, H, W), mask=(1, H, W). A guidance scale is the model's own unless given.

        Raises:
            UsageError: no such input, a class or prompt that it doesn't have, or a picture to edit that is missing.
            CheckpointError: the artefact is damaged.
            BackendError: its runtime is not on this machine.
        """
        if count < 1 or seed < 0:
            raise UsageError("count must be at least 1 and seed must not be negative")
        if isinstance(prompt, int):
            given, prompt = {**given, "prompt": prompt}, None
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
        source = source_from_artifact(self.folder, task)
        return draw_pictures(source, count, seed, given, prompts=prompts, noise=noise)

    @speaks_of_arguments()
    def kit(
        self, platform: str, out: Path | str = ".", *, labels: str | Path | None = None, overwrite: bool = False
    ) -> Path:
        """Write what an app developer drops in: the model, code to call it, golden pictures, a sample, a README.

        Args:
            platform: "python", "cpp", "web", "android" or "ios".
            out: where the folder `<name>-kit-<platform>` goes.
            labels: names of the classes in the app's code, a file or a set known by name; None: the artefact's.
            overwrite: replace whatever stands there.

        Returns:
            The kit's folder.

        Raises:
            UsageError: no such platform, an artefact for another target, one that was not verified, or wrong names.
            ParityError: the artefact failed its gate.
            CheckpointError: it is damaged.
            BackendError: the runtime that draws the golden pictures is not on this machine.
        """
        names = None if labels is None else str(labels)
        found = platform_named(platform)
        return make_kit(self.folder, found, Path(out), labels=names, overwrite=overwrite).folder

    @speaks_of_arguments()
    def verify(
        self,
        against: str | Path | None = None,
        *,
        task: str | None = None,
        seeds: int | None = None,
        **settings: Any,
    ) -> Verification:
        """Compare with PyTorch once more, rung by rung; nothing is raised if a gate is missed: see `passed`.

        Args:
            against: the checkpoint; None: the one that the manifest names, if it is still the same, else only the
                pictures in `golden/`, with a warning.
            task: which graph, of several; None: the first.
            seeds: pictures, 8 or more; None: 64, fewer for large models.
            settings: the checkpoint's constants, as for `load`.

        Raises:
            CheckpointError: artefact or checkpoint are damaged, or don't belong together.
            UsageError: there is no checkpoint to compare with, no such graph, or fewer than 8 pictures.
        """
        options = _pictures(seeds)
        texts = {name: as_text(value) for name, value in settings.items()}
        which = task or self.manifest.function_names[0]
        source = None if against is None else str(against)
        gone = lambda why: warnings.warn(why, stacklevel=5)  # noqa: E731
        reports = verify_artifact(self.folder, source, texts, options, Progress(), which, gone=gone)
        return Verification(reports[which])


@dataclass(frozen=True, eq=False)
class Verification:
    """What comparing an artefact with PyTorch showed; `report` has every rung."""

    report: ParityReport

    @property
    def passed(self) -> bool:
        """Whether every rung met its gate."""
        return self.report.passed

    @property
    def mean_db(self) -> float:
        """PSNR of the shipped file's pictures, peak 2.0, mean; infinite if all are equal, NaN if one holds NaN."""
        return self._decibels(self.report.rungs[-1].difference.mean_db)

    @property
    def worst_db(self) -> float:
        """PSNR of the worst picture; infinite if all are equal, NaN if one holds NaN."""
        return self._decibels(self.report.rungs[-1].difference.min_db)

    def _decibels(self, value: float | None) -> float:
        if value is not None:
            return value
        return math.inf if self.report.rungs[-1].difference.identical else math.nan
