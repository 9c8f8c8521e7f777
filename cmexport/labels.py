"""Names of classes: from a file, a known set by its name, and from a name to its number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmexport.errors import CheckpointError, UsageError
from cmexport.files import read_file

KNOWN: Mapping[str, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""Sets that `--labels` knows by name, in the order of their data sets."""


def named(labels: str | Path | Sequence[str], classes: int | None) -> tuple[str, ...]:
    """Find the names of a model's classes.

    Args:
        labels: a known set, a file with a name in each line or a JSON list of names, or the names themselves.
        classes: how many the model has; None if it is unconditional.

    Raises:
        UsageError: neither a file nor a known set, or the model has another number of classes.
        CheckpointError: the file can't be read.
    """
    where = "labels"
    if isinstance(labels, str | Path):
        where, found = f"--labels {labels}", KNOWN.get(str(labels)) or _read(Path(labels))
    else:
        found = tuple(labels)
    if classes is None:
        raise UsageError(f"{where}: this model is unconditional, it has no classes to name")
    if len(found) != classes:
        raise UsageError(f"{where}: {len(found)} names, but this model has {classes} classes; one is needed for each")
    return found


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = read_file(path, "a list of names").decode("utf-8-sig")
        found = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.rstrip().splitlines()
    except FileNotFoundError:
        raise UsageError(f"--labels {path}: neither a file nor a set known by name ({', '.join(KNOWN)})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: neither lines of UTF-8 text nor a JSON list of names") from error
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise CheckpointError(f"{path}: expected a name for each class, one a line or a JSON list; found another value")
    return tuple(name.strip() for name in found)


def number_of(label: int | str, labels: Sequence[str], classes: int | None = None) -> int:
    """Find the number of a class given by number or name; of "tench, Tinca tinca" either will do, in any case.

    Raises:
        UsageError: no class has that name, or several have.
    """
    try:
        return int(label)
    except ValueError:
        pass
    wanted = str(label).strip().casefold()
    found = [
        number
        for number, name in enumerate(labels)
        if wanted in (name.casefold(), *(part.strip() for part in name.casefold().split(",")))
    ]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise UsageError(f"--label {label}: the name of classes {', '.join(map(str, found))}; give the number")
    numbers = "" if classes is None else f" 0 to {classes - 1}"
    if not labels:
        raise UsageError(f"--label {label}: this model's classes have no names; give a number{numbers}")
    few = ", ".join(labels) if len(labels) <= 20 else f"{', '.join(labels[:20])}, ..."
    raise UsageError(f"--label {label}: no class of that name; give a number{numbers}, or one of {few}")
