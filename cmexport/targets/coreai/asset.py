"""The folder that an `.aimodel` asset is: its files, whether they are whole, and what it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.signature import Signature
from cmexport.targets.base import files_inside
from cmexport.targets.coreai.library import assets

METADATA, PROGRAM, HASH = "metadata.json", "main.mlirb", "main.hash"


def asset_of(folder: Path, files: Sequence[str]) -> Path:
    """The asset among an artefact's files."""
    return (folder / files[0]).parent


def asset_files(asset: Path) -> tuple[str, ...]:
    """Paths of an asset's files, relative to the folder it lies in; the program first, then in order of name."""
    return files_inside(asset, PROGRAM)


def check_asset(asset: Path) -> None:
    """Refuse an asset that isn't whole: on a damaged program Apple's reader ends the process.

    Raises:
        CheckpointError: a file is missing, or the program isn't the one whose hash lies beside it.
        OSError: a file can't be read.
    """
    if missing := [name for name in (PROGRAM, HASH, METADATA) if not (asset / name).is_file()]:
        raise CheckpointError(f"{asset}: {missing[0]} is missing; copy the whole asset again")
    with (asset / PROGRAM).open("rb") as program:
        found = hashlib.file_digest(program, "sha256").digest()
    if found != (asset / HASH).read_bytes():
        raise CheckpointError(f"{asset}: {PROGRAM} is damaged (its hash differs); copy the whole asset again")


def describe(asset: Path, signature: Signature) -> None:
    """Say in the asset what it is and what its inputs mean.

    Raises:
        OSError: it can't be written.
    """
    what = "Edits a picture" if signature.given else "Draws a picture from noise"
    meanings = " ".join(f"Input {i.name}: {i.meaning}." for i in signature.inputs)
    output = signature.output

    def change(metadata: Any) -> None:
        metadata.author = "cmexport"
        metadata.model_description = (
            f"{what}: a consistency model with its sampler. {meanings} Output {output.name}: {output.meaning}."
        )

    _update(asset, change)


def stamp(asset: Path, facts: Mapping[str, str]) -> None:
    """Write facts into the asset's metadata; the program is not touched.

    Raises:
        OSError: it can't be written.
    """

    def change(metadata: Any) -> None:
        for key, value in facts.items():
            metadata.set_custom(key, value)

    _update(asset, change)


def _update(asset: Path, change: Any) -> None:
    try:
        assets().AIModelAsset.load(asset).update_metadata(change)
    except RuntimeError as error:
        raise OSError(f"{asset / METADATA}: can't be written: {str(error).strip()}") from error
