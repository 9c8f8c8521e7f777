"""What the live page is made of: a kit of each artefact, and onnxruntime-web as `cmexport bench` has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmexport.bench.on_device import device_files
from cmexport.bench.web.pages import vendored
from cmexport.errors import UsageError
from cmexport.kits import Kit, make_kit, platform_named

_RUNTIME = "node_modules/onnxruntime-web/dist"
_MODELS = "models.json"


@dataclass(frozen=True)
class Site:
    """A closed list of files by the path they are asked for, so that no request can name anything else."""

    files: Mapping[str, Path]
    kits: tuple[Kit, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """How many steps each kit's model takes; the page offers them where they are several."""
        return tuple(kit.main.steps for kit in self.kits)


def make_site(
    artifacts: Sequence[Path],
    folder: Path,
    *,
    labels: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Site:
    """Make kits of artefacts below a folder; the first one's page shows them all.

    Args:
        artifacts: verified ONNX artefacts, of one model with different numbers of steps where they are several.
        folder: an empty one.
        labels: names of the classes, a file or a set known by name, instead of the artefacts'.
        progress: told about every golden picture.

    Raises:
        BackendError: onnxruntime-web isn't here.
        UsageError: no kit for browsers can be made of one, or two are of different models or of equal steps.
        ParityError: one failed its gate.
        CheckpointError: one is damaged.
    """
    runtime = vendored(device_files("web"))
    web = platform_named("web")
    kits: list[Kit] = []
    files: dict[str, Path] = {}
    bases: list[str] = []
    for number, artifact in enumerate(artifacts):
        made = make_kit(artifact, web, folder / str(number), labels=labels, progress=progress)
        _check_together(artifacts[0], kits, artifact, made.kit)
        below = f"{number}/" if number else ""
        files |= _below(made.folder, below)
        kits.append(made.kit)
        bases.append(f"./{below}")
    files[_MODELS] = folder / _MODELS
    files[_MODELS].write_text(json.dumps(bases) + "\n", encoding="utf-8")
    return Site(files | {f"{_RUNTIME}/{name}": path for name, path in runtime.items()}, tuple(kits))


def _below(folder: Path, prefix: str) -> dict[str, Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {prefix + path.relative_to(folder).as_posix(): path for path in found}


def _check_together(first: Path, others: Sequence[Kit], artifact: Path, kit: Kit) -> None:
    """Refuse what one page can't show: it asks for the same things, whichever number of steps is chosen."""
    if not others:
        return
    one, two = others[0], kit
    if (one.name, one.labels, one.prompts) != (two.name, two.labels, two.prompts) or [r.task for r in one.runs] != [
        r.task for r in two.runs
    ]:
        raise UsageError(f"{artifact}: is of another model or task than {first}; serve it by itself")
    if any(other.main.steps == kit.main.steps for other in others):
        raise UsageError(
            f"{artifact}: takes {kit.main.steps} steps as another one does; one page offers several numbers of steps"
        )
