"""Making a kit: the model unchanged, its code, its pictures; written beside, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmexport.artifact import read_manifest, staged_folder
from cmexport.errors import OutputError, UsageError
from cmexport.kits.facts import FORMAT, Kit, kit_of
from cmexport.kits.golden import golden_files
from cmexport.kits.platforms.info import Platform
from cmexport.kits.rendering import render, spelled
from cmexport.targets.registry import INFOS
from cmexport.tokenizer import read_tokenizer

FACTS = "kit.json"


@dataclass(frozen=True)
class MadeKit:
    """A kit that was written: where, and what it says of its model."""

    folder: Path
    kit: Kit


def make_kit(
    artifact: Path,
    platform: Platform,
    out: Path = Path(),
    *,
    labels: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> MadeKit:
    """Write `<name>-kit-<platform>/` into a folder. The same artefact gives the same bytes.

    Args:
        artifact: a verified artefact; its files are checked against its manifest.
        platform: what the kit is for.
        out: where the kit's folder goes.
        labels: names of the classes, a file or a set known by name, instead of the artefact's.
        overwrite: also replace a kit of another artefact.
        progress: told about every golden picture.

    Raises:
        UsageError: the artefact is for another target, was not verified, or takes what an app can't make.
        ParityError: it failed its gate.
        CheckpointError: it is damaged.
        BackendError: the runtime that draws the golden pictures isn't here.
        OutputError: the kit can't be written, or something else stands in its place.
    """
    manifest = read_manifest(artifact)
    if manifest.target != platform.target:
        title = INFOS[platform.target].title
        raise UsageError(
            f"{artifact}: was exported for {INFOS[manifest.target].title}; kits for {platform.title} take {title}: "
            f"export it with `cmexport {platform.target}`"
        )
    kit = kit_of(artifact, manifest, labels)
    if reason := platform.refusal(kit):
        raise UsageError(f"{artifact}: {reason}")
    final = out / f"{kit.name}-kit-{platform.name}"

    def check(folder: Path) -> None:
        if not overwrite:
            _check_replaceable(folder, kit)

    with staged_folder(final, check) as staged:
        model = staged.path / spelled(platform.model_folder, kit)
        for file in kit.files:
            (model / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact / file.path, model / file.path)
        tokenizer = None if kit.tokenizer is None else read_tokenizer(artifact / kit.tokenizer.folder)
        golden = golden_files(artifact, kit, tokenizer, progress)
        _write(staged.path / spelled(platform.golden_folder, kit), golden)
        _write(staged.path, render(kit, platform))
        _write(staged.path, {FACTS: (kit.model_dump_json(indent=1) + "\n").encode()})
    return MadeKit(staged.final, kit)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _check_replaceable(folder: Path, kit: Kit) -> None:
    """Let go what is empty, or a kit of the same artefact."""
    if not any(folder.iterdir()):
        return
    try:
        found = json.loads((folder / FACTS).read_bytes())
        of_same = found["format"] == FORMAT and found["artifact"] == kit.artifact
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        of_same = False
    if not of_same:
        raise OutputError(
            f"{folder}: holds something else than a kit of {kit.artifact};\n"
            "--overwrite replaces it, -o writes elsewhere"
        )
