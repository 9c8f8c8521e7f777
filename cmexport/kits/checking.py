"""Whether a kit's model files are still those of its artefact: `cmexport kit --check`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cmexport.errors import CheckpointError
from cmexport.files import read_file, require_file, sha256_of
from cmexport.kits.facts import Kit
from cmexport.kits.making import FACTS
from cmexport.kits.platforms.registry import PLATFORMS
from cmexport.kits.rendering import spelled


def check_kit(folder: Path) -> Kit:
    """Compare size and SHA-256 of every model file of a kit with `kit.json`.

    Raises:
        CheckpointError: it is no kit, or a file is missing or another one.
    """
    try:
        kit = Kit.model_validate_json(read_file(folder / FACTS, "a kit's facts"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a kit, it has no {FACTS}") from None
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder / FACTS}: damaged; make the kit again") from error
    models = [folder / spelled(platform.model_folder, kit) for platform in PLATFORMS.values()]
    model = next((path for path in models if (path / kit.files[0].path).exists()), None) if kit.files else None
    if model is None:
        raise CheckpointError(f"{folder}: its model is missing; make the kit again")
    for file in kit.files:
        path = model / file.path
        require_file(path)
        try:
            same = sha256_of(path) == file.sha256
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing; make the kit again") from None
        if not same:
            raise CheckpointError(f"{path}: changed since the kit was made (SHA-256 differs); make the kit again")
    return kit
