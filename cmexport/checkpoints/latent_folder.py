"""diffusers folders of text-to-image pipelines that paint latents in a few steps.

`LatentConsistencyModelPipeline`, and `StableDiffusionPipeline` and `StableDiffusionXLPipeline` with a scheduler of few
steps: each part is read here and made a model of in `latent_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cmexport.checkpoints.choosing import SETTING, several
from cmexport.checkpoints.diffusers_networks import read_flat_state
from cmexport.checkpoints.folders import weights_files
from cmexport.checkpoints.latent_model import model_of_parts
from cmexport.checkpoints.latent_parts import TEXTS, Part, Parts, State, Text, text_names, vae_names
from cmexport.checkpoints.latent_schedule import schedule_of
from cmexport.checkpoints.reading import FileFacts, facts_of_all, file_facts
from cmexport.checkpoints.settings import Settings
from cmexport.checkpoints.sharded import read_shards
from cmexport.errors import CheckpointError
from cmexport.files import read_json
from cmexport.model import CheckpointSource, ConsistencyModel
from cmexport.tokenizer import read_tokenizer

PIPELINES = (
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)


@dataclass
class FolderParts:
    """Parts out of folders, and every file of weights that was read for them, for the hash of the whole.

    Attributes:
        folder: the pipeline's.
        settings: collects the decisions.
        wanted: a variant of the weights' files, "fp16".
        read: files of weights, with the part that each belongs to.
        variants: of all parts that were read.
    """

    folder: Path
    settings: Settings
    wanted: str | None = None
    read: list[tuple[str, FileFacts]] = field(default_factory=list)
    variants: set[str] = field(default_factory=set)

    def part(
        self, name: str, named: Callable[[State], State] = lambda state: state, folder: Path | None = None
    ) -> Part:
        """Read the configuration of a part; its weights follow when they are asked for.

        Args:
            name: of the part, and of its subfolder.
            named: gives the weights the names that their class has today.
            folder: where it lies, if it is none of the pipeline's.

        Raises:
            CheckpointError: it has no sound configuration.
        """
        origin = f"{name}/config.json"
        folder = folder or self.folder / name
        where = folder / "config.json"
        return Part(read_json(where), lambda: named(self._tensors(name, folder)), where, folder, origin)

    def autoencoder(self) -> Part:
        """Return what decodes: the pipeline's own, or the folder that `--decoder tiny:FOLDER` names."""
        asked = str(self.settings.said("decoder") or "")
        other = Path(asked.removeprefix("tiny:")) if asked.startswith("tiny:") else None
        return self.part("vae", vae_names, other)

    def _tensors(self, part: str, folder: Path) -> State:
        """Read the weights of a part; a variant (fp16) is taken where it is the only one, or `--weights` says so."""
        files = weights_files(folder)
        if not files:
            raise CheckpointError(
                f"{folder}: holds no weights (model.safetensors, diffusion_pytorch_model.safetensors)"
            )
        self.variants.update(files)
        if self.wanted in files:
            chosen, origin = files[self.wanted], f"--weights {self.wanted}"
        elif "" in files or len(files) == 1:
            # A part without the variant gives what it has, as in diffusers.
            chosen, origin = files.get("", next(iter(files.values()))), "the only variant that is there"
        else:
            raise several(folder, list(files), "variants")
        if chosen.variant:
            self.settings.inferred(SETTING, chosen.variant, origin)
        tensors: State
        if chosen.sharded:
            facts, tensors = read_shards(chosen.path, read_flat_state)
        else:
            facts = file_facts(chosen.path)
            tensors = dict(read_flat_state(facts))
        self.read.append((part, facts))
        return tensors

    def source(self, kind: str, reference: str) -> CheckpointSource:
        """Hash over parts and hashes of their files, and the bytes of all.

        Args:
            kind: format in words.
            reference: hub id, if the folder lies in its cache.

        Raises:
            CheckpointError: no part had weights of the variant that was asked for.
        """
        if self.wanted is not None and self.wanted not in self.variants:
            there = ", ".join(sorted(v for v in self.variants if v)) or "none"
            raise CheckpointError(
                f"{self.folder}: no part has weights of the variant '{self.wanted}'; there are: {there}"
            )
        whole = facts_of_all(self.folder, self.read)
        return CheckpointSource(self.folder, kind, whole.sha256, whole.size_bytes, reference)


def _texts_of(name: str) -> tuple[str, ...]:
    return TEXTS if "XL" in name else TEXTS[:1]


def _tokenizer_of(text: str) -> str:
    return text.replace("text_encoder", "tokenizer")


def is_latent_pipeline(name: str) -> bool:
    """Whether `model_index.json` names a pipeline that is read here."""
    return name in PIPELINES


def is_whole(folder: Path, wanted: str | None = None) -> bool | None:
    """Whether a latent pipeline has weights of all parts, the `wanted` ones in some; None: it is something else."""
    index = folder / "model_index.json"
    name = str(read_json(index).get("_class_name")) if index.is_file() else ""
    if not is_latent_pipeline(name):
        return None
    found = [weights_files(folder / part) for part in ("unet", *_texts_of(name), "vae")]
    return all(found) and (wanted is None or any(wanted in files for files in found))


def load_latent_folder(
    folder: Path, name: str, settings: Settings, wanted: str | None = None, reference: str = ""
) -> ConsistencyModel:
    """Read a text-to-image pipeline.

    Args:
        folder: with `model_index.json` and a subfolder for each part.
        name: the pipeline's class.
        settings: collects the decisions.
        wanted: a variant of the weights' files, "fp16".
        reference: hub id, if the folder lies in its cache.

    Raises:
        CheckpointError: a part is missing, damaged, or doesn't fit the others; the message names it.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it.
    """
    return model_of_parts(read_parts(folder, name, settings, wanted, reference), settings)


def read_parts(folder: Path, name: str, settings: Settings, wanted: str | None = None, reference: str = "") -> Parts:
    """Read what `load_latent_folder` makes a model of; see there."""
    index = read_json(folder / "model_index.json")
    texts = _texts_of(name)
    for part in (*map(_tokenizer_of, texts), *texts, "unet", "scheduler", "vae"):
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder}: lacks the folder {part}/, a part of every {name}")
        if part in index and index[part] in (None, [None, None]):
            raise CheckpointError(f"{folder}: its model_index.json says that it has no {part}, a part of every {name}")
    files = FolderParts(folder, settings, wanted)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return Parts(
        pipeline=name,
        schedule=schedule_of(read_json(scheduler), scheduler, settings, "scheduler_config.json"),
        schedule_origin="scheduler_config.json",
        texts=tuple(Text(files.part(t, text_names), read_tokenizer(folder / _tokenizer_of(t))) for t in texts),
        unet=files.part("unet"),
        vae=files.autoencoder(),
        where=folder,
        source=lambda: files.source(f"diffusers ({name})", reference),
        unsaid=len(texts) > 1 and bool(index.get("force_zeros_for_empty_prompt", True)),
    )
