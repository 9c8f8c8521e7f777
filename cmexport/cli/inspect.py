"""`cmexport inspect CKPT|ARTIFACT`: what a file is and every constant that will be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cmexport.artifact import Manifest, artifact_folder, read_manifest
from cmexport.artifact.manifest import CheckpointRecord
from cmexport.checkpoints.parts_report import report_parts
from cmexport.checkpoints.selfcheck import SelfCheck, check_on_pictures
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import assumed_facts
from cmexport.cli.engines import engine_facts, show_engine
from cmexport.cli.loras import lora_facts, show_lora
from cmexport.cli.packages import package_facts, show_package
from cmexport.cli.parts import parts_facts, show_parts
from cmexport.cli.peak import peak_facts, show_peak
from cmexport.cli.requests import chosen_checkpoint, open_checkpoint
from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, Setting
from cmexport.sampling.policy import policy_schedule
from cmexport.sampling.schedules import Schedule, default_schedule, plan_sampling, schedule_for_steps
from cmexport.signature import Input, Output, known

_PARTS_OF = "--parts: name a Stable Diffusion checkpoint in one file"

Subject = Annotated[
    str | None, typer.Argument(metavar="[CKPT|ARTIFACT]", help="Checkpoint or artefact folder.", show_default=False)
]

Pictures = Annotated[
    list[Path] | None,
    typer.Option(
        "--pictures", metavar="FILE", help="Pictures to try the readings on; default: four of CIFAR-10. Repeatable."
    ),
]
PartsFlag = Annotated[
    bool,
    typer.Option(
        "--parts", help="Stable Diffusion in one file: weights by part, every name without a place; loads nothing."
    ),
]
Peak = Annotated[
    bool, typer.Option("--peak", help="Memory of each graph of an ONNX artefact: predicted, and measured on this CPU.")
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Skip trying other readings on pictures.")]


def command(
    subject: Subject = None,
    demo: o.Demo = None,
    pictures: Pictures = None,
    no_check: NoCheck = False,
    parts: PartsFlag = False,
    peak: Peak = False,
    size: o.Size = None,
    decoder: o.Decoder = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    trust: o.Trust = False,
    as_json: o.AsJson = False,
) -> None:
    """What a checkpoint or artefact is: every constant with its origin, what is ambiguous, what rewriting removed.

    A Core ML package, with or without its artefact: operations, precision, weights, what leaves the Neural Engine. A
    TensorRT engine likewise: layers, what they were fused from, precisions, memory.
    """
    subject = chosen_checkpoint(subject, demo)
    folder = artifact_folder(subject)
    package = _with_suffix(subject, ".mlpackage")
    engine = _with_suffix(subject, ".engine")
    if peak and (folder is None or package is not None or engine is not None):
        raise UsageError("--peak: for an ONNX artefact, the folder that `cmexport onnx` writes")
    if folder is not None or package is not None or engine is not None:
        if parts:
            raise UsageError(_PARTS_OF)
        _inspect_written(folder, package, engine, as_json, peak=peak)
        return
    if parts:
        _inspect_parts(subject, as_json)
        return
    model = open_checkpoint(
        subject, o.with_size(assignments, size, decoder, loras), trust=trust, weights=weights, strict=strict
    )
    check = None if no_check else check_on_pictures(model, pictures)
    if as_json:
        console.emit_json(_checkpoint_facts(model, check))
    else:
        _show_checkpoint(model, check)


def _with_suffix(subject: str | None, suffix: str) -> Path | None:
    return Path(subject) if subject is not None and Path(subject).suffix == suffix else None


def _inspect_parts(subject: str | None, as_json: bool) -> None:
    if subject is None:
        raise UsageError(_PARTS_OF)
    report = report_parts(Path(subject))
    if as_json:
        console.emit_json(parts_facts(report))
    else:
        show_parts(report)


def _inspect_written(
    folder: Path | None, package: Path | None, engine: Path | None, as_json: bool, *, peak: bool
) -> None:
    """Show an artefact, one of its Core ML packages or engines, or one of these without an artefact."""
    manifest = None if folder is None else read_manifest(folder)
    memory = peak_facts(folder, manifest) if peak and folder is not None and manifest is not None else None
    if as_json:
        facts: dict[str, Any] = {}
        if manifest is not None:
            facts = {"folder": str(folder), "manifest": manifest.model_dump(mode="json")}
        if package is not None:
            facts["package"] = package_facts(package)
        if engine is not None:
            facts["engine"] = engine_facts(engine)
        if memory is not None:
            facts["peak"] = memory
        console.emit_json(facts)
        return
    if folder is not None and manifest is not None:
        _show_artifact(folder, manifest)
    if memory is not None:
        show_peak(memory)
    if package is not None:
        show_package(package)
    if engine is not None:
        show_engine(engine)


def _checkpoint_facts(model: ConsistencyModel, check: SelfCheck | None) -> dict[str, Any]:
    return {
        "file": str(model.source.path),
        "format": model.source.format,
        "sha256": model.source.sha256,
        "bytes": model.source.size_bytes,
        "parameters": model.parameters,
        "license": model.source.license,
        "license_origin": model.source.license_origin,
        "labels": list(model.labels) or None,
        "settings": [
            {"name": s.name, "value": s.value, "origin": s.origin, "ambiguous": s.ambiguous} for s in model.settings
        ],
        "assumed": assumed_facts(model.settings),
        "self_check": None
        if check is None
        else {
            "boundary": check.boundary,
            "interpretations": [
                {"fields": dict(i.fields), "error": i.error, "chosen": i.chosen} for i in check.interpretations
            ],
            "spread": check.spread,
            "warnings": list(check.warnings),
        },
        **(_step_facts(model) if model.schedule is None else _latent_facts(model)),
    }


def _step_facts(model: ConsistencyModel) -> dict[str, Any]:
    first, steps = plan_sampling(model).evaluations[0], _two_steps(model)
    return {
        "one_step": {
            "sigma": first.sigma,
            "c_skip": first.c_skip,
            "c_out": first.c_out,
            "c_in": first.c_in,
            "c_noise": first.c_noise,
        },
        "two_steps": {"sigmas": list(steps.sigmas), "schedule": steps.origin},
    }


def _latent_facts(model: ConsistencyModel) -> dict[str, Any]:
    table, codec, tokenizer = model.schedule, model.codec, model.tokenizer
    assert table is not None
    return {
        "parts": model.parts,
        "scheduler": table.title,
        "timesteps": list(table.timesteps(table.default_steps)),
        "latents": None if codec is None else [model.space.channels, model.space.height, model.space.width],
        "pictures": None if codec is None else [codec.channels, *_pixels(model)],
        "guidance": next((s.value for s in model.settings if s.name == known.GUIDANCE), None),
        "loras": [lora_facts(lora) for lora in model.loras],
        "tokenizer": None if tokenizer is None else {"vocabulary": len(tokenizer.vocabulary), "pad": tokenizer.pad},
    }


def _pixels(model: ConsistencyModel) -> tuple[int, int]:
    factor = 1 if model.codec is None else model.codec.factor
    return model.space.height * factor, model.space.width * factor


def _license(source: CheckpointSource | CheckpointRecord) -> str:
    return f"license {source.license or 'unknown'} ({source.license_origin})"


def _classes(labels: Sequence[str]) -> str:
    few = [f"{number} {name}" for number, name in enumerate(labels[:10])]
    return f"; classes {', '.join(few)}{', ...' if len(labels) > 10 else ''}" if few else ""


def _two_steps(model: ConsistencyModel) -> Schedule:
    if model.policy is not None:
        return policy_schedule(model.policy, model, min(2, 1 + len(model.policy.chain)))
    return schedule_for_steps(model, 2) if model.noise.levels > 2 else default_schedule(model, "generate")


def _show_checkpoint(model: ConsistencyModel, check: SelfCheck | None) -> None:
    source = model.source
    merged = " (with its LoRAs)" if model.loras else ""
    console.say(
        f"{source.path}: {source.format}, {model.parameters:,} parameters, {source.size_bytes / 1e6:.1f} MB\n"
        f"sha256 {source.sha256}{merged}\n{_license(source)}{_classes(model.labels)}"
    )
    table = Table("constant", "value", "origin")
    for setting in model.settings:
        table.add_row(*_row(setting))
    console.say(table)
    if model.schedule is not None:
        _show_latent(model, _latent_facts(model))
        for lora in model.loras:
            show_lora(lora)
        return
    first = plan_sampling(model).evaluations[0]
    console.say(
        f"one step at sigma {first.sigma:g}: c_skip {first.c_skip:.6e}, c_out {first.c_out:.9f}, "
        f"c_in {first.c_in:.6e}, c_noise {first.c_noise:.4f}"
    )
    steps = _two_steps(model)
    levels = ", ".join(f"{s:.7g}" for s in steps.sigmas)
    console.say(f"--steps {len(steps.sigmas) or 1} evaluates at {levels}: {steps.origin}")
    if ambiguous := [s.name for s in model.settings if s.ambiguous]:
        console.say(f"Ambiguous (a guess; confirm with --set): {', '.join(ambiguous)}")
    if check is not None:
        _show_check(check)


def _show_latent(model: ConsistencyModel, facts: Mapping[str, Any]) -> None:
    table = Table("part", "weights", "share", "")
    said = {
        "text_encoder_2": "the same prompts, and pooled",
        "network": "latents {} x {} x {}".format(*facts["latents"]),
        "decoder": "pictures {} x {} x {}".format(*facts["pictures"]),
    }
    if facts["tokenizer"] is not None:
        said["text_encoder"] = (
            f"prompts of 77 out of {facts['tokenizer']['vocabulary']:,} tokens, padded with {facts['tokenizer']['pad']}"
        )
    for part, weights in facts["parts"].items():
        table.add_row(part.replace("_", " "), f"{weights:,}", f"{weights / model.parameters:.0%}", said.get(part, ""))
    console.say(table)
    assert model.schedule is not None
    console.say(f"by default {model.schedule.account(facts['timesteps'])}")


def _show_check(check: SelfCheck) -> None:
    console.say(f"|f(x, sigma_min) - x| is {check.boundary:.1e}.")
    table = Table("reading", "denoising error", "")
    for interpretation in check.interpretations:
        table.add_row(Text(str(interpretation)), f"{interpretation.error:.3f}", "used" if interpretation.chosen else "")
    console.say(table)
    for warning in check.warnings:
        console.say(Text(f"Warning: {warning}", style="yellow"))


def _row(setting: Setting) -> tuple[Text, Text, Text]:
    style = "yellow" if setting.ambiguous else ""
    value = str(setting.value)
    if isinstance(setting.value, tuple):
        value = setting.text.replace(",", ", ")
    origin = f"{setting.origin} (ambiguous)" if setting.ambiguous else setting.origin
    return Text(setting.name), Text(value, style), Text(origin, style)


def _show_artifact(folder: Path, manifest: Manifest) -> None:
    console.say(
        f"{folder}: {manifest.name}, {manifest.target} {manifest.precision}, cmexport {manifest.cmexport_version}"
    )
    console.say(f"  {_license(manifest.checkpoint)}{_classes(manifest.labels or ())}")
    for record in manifest.assumed:
        console.say(f"  assumed {record.name}: {record.option} ({record.origin})")
    for file in manifest.files:
        console.say(f"  {file.path}  {file.bytes / 1e6:.2f} MB  {file.role}")
    for name in manifest.function_names:
        _show_graph(manifest.function(name))


def _show_graph(manifest: Manifest) -> None:
    patch = "" if manifest.patch is None else f" of {manifest.patch} x {manifest.patch} blocks"
    schedule = f" ({manifest.sampling.schedule})" if manifest.sampling.schedule else ""
    console.say(f"task {manifest.task}{patch}, {len(manifest.sampling.sigmas)} step(s){schedule}")
    border = Table("graph", "name", "dtype", "shape", "meaning")
    signature = manifest.signature
    tensors: list[Input | Output] = [*signature.inputs, signature.output]
    for tensor in tensors:
        kind = "input" if isinstance(tensor, Input) else "output"
        shape = " x ".join(map(str, tensor.shape))
        border.add_row(kind, tensor.name, tensor.dtype, shape, Text(tensor.meaning))
    console.say(border)
    steps = Table("step", "sigma", "c_skip", "c_out", "c_in", "c_noise", "noise std")
    for index, e in enumerate(manifest.sampling.evaluations):
        values = (e.sigma, e.c_skip, e.c_out, e.c_in, e.c_noise, e.noise_std)
        steps.add_row(str(index + 1), *(f"{v:.7g}" for v in values))
    console.say(steps)
    account = Table("rewrite", "weights removed", "operations removed", "relative error", "note")
    for r in manifest.rewrites:
        error = "not applied" if r.max_relative_error is None else f"{r.max_relative_error:.1e}"
        account.add_row(r.name, f"{r.parameters_removed:,}", f"{r.nodes_removed:,}", error, Text(r.note))
    if manifest.rewrites:
        console.say(account)
    if manifest.parity is None:
        console.say("Not verified.")
    else:
        state = "passed" if manifest.parity.passed else "FAILED"
        rung = manifest.parity.rungs[-1]
        mean = rung.difference.mean_db
        found = "identical" if rung.difference.identical else "no PSNR" if mean is None else f"{mean:.1f} dB"
        console.say(f"Parity {state}: {rung.name} {found} over {manifest.parity.pictures} pictures.")
        if shares := manifest.parity.time_shares:
            alone = manifest.parity.alone_db
            parts = Table("part", "of a picture's time", "alone in this precision, dB")
            for name, share in shares.items():
                score = "-" if name not in alone else "identical" if alone[name] is None else f"{alone[name]:.1f}"
                parts.add_row(name, f"{share:.0%}", score)
            console.say(parts)
