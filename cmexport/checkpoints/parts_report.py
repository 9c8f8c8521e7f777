"""Which part of a Stable Diffusion file every weight belongs to, also of files that can't be loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmexport.checkpoints.ldm_families import family_of
from cmexport.checkpoints.ldm_groups import Group, grouped
from cmexport.checkpoints.ldm_parts import FilePart, kl_part, text_part, unet_part
from cmexport.checkpoints.reading import FileFacts, container_of, file_facts, read_torch
from cmexport.checkpoints.single_file import SingleFile, single_file_in, single_file_of
from cmexport.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class PartReport:
    """A part of a file.

    Attributes:
        name: as diffusers calls it; "unet (averaged)" for an average.
        prefix: of its names.
        weights: how many tensors.
        parameters: how many numbers in them.
        dtypes: tensors of each type.
        unmatched: the file's names of weights that the network does not have.
        missing: the network's names of weights that the file does not have.
        leftovers: names that are known and not needed.
        problem: why it is no network that can be read; "" where it is one.
    """

    name: str
    prefix: str
    weights: int
    parameters: int
    dtypes: Mapping[str, int]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    leftovers: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class FileReport:
    """A file, part by part.

    Attributes:
        facts: which file.
        container: "safetensors", "torch zip", ...
        family: what kind of Stable Diffusion; "" where that can't be told.
        problem: why it can't.
        parts: every part that is there.
        leftovers: names beside the parts that are known and not needed.
        beside: names beside the parts that are not known.
    """

    facts: FileFacts
    container: str
    family: str
    problem: str
    parts: tuple[PartReport, ...]
    leftovers: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every weight has its place."""
        return not self.problem and not any(p.problem or p.unmatched or p.missing for p in self.parts)


def report_parts(path: Path) -> FileReport:
    """Sort the weights of a file into parts, and match each part with its network.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe.
        UsageError: it is no Stable Diffusion in one file.
        BackendError: diffusers is not installed.
    """
    file = _opened(file_facts(path))
    if file is None:
        raise UsageError(f"--parts: {path} is no Stable Diffusion checkpoint in one file")
    groups = grouped(file.shapes)
    family = problem = ""
    try:
        family = family_of(path, groups).title
    except CheckpointError as error:
        problem = _reason(path, error)
    parts: list[PartReport] = []
    if groups.unet is not None:
        parts.append(_report(path, groups.unet, lambda group: unet_part(path, group, {})))
    if groups.average is not None:
        average = _report(path, groups.average, lambda group: unet_part(path, group, {}), "unet (averaged)")
        parts.append(average)
    if groups.vae is not None:
        parts.append(_report(path, groups.vae, lambda group: kl_part(path, group, 1.0)))
    parts += [_report(path, group, lambda group: text_part(path, group)) for group in groups.texts]
    return FileReport(file.facts, file.container, family, problem, tuple(parts), groups.leftovers, groups.beside)


def _opened(facts: FileFacts) -> SingleFile | None:
    kind = container_of(facts.path)
    if kind == "safetensors":
        return single_file_of(facts)
    return single_file_in(facts, *read_torch(facts)) if kind == "torch" else None


def _report(path: Path, group: Group, described: Callable[[Group], FilePart], name: str = "") -> PartReport:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in group.tensors.values())
    total = sum(tensor.numel() for tensor in group.tensors.values())
    counted = (name or group.part, group.prefix, len(group.tensors), total, dict(dtypes.most_common()))
    try:
        part = described(group)
    except CheckpointError as error:
        return PartReport(*counted, (), (), (), _reason(path, error))
    leftovers = tuple(group.whole(leftover) for leftover in part.leftovers)
    return PartReport(*counted, part.unmatched, part.missing, leftovers)


def _reason(path: Path, error: CheckpointError) -> str:
    return str(error).removeprefix(f"{path}: ").splitlines()[0]
