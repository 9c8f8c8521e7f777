"""What is known of a step, in a small file of its own: written whole, believed only if everything still fits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cmexport.artifact import write_atomically
from cmexport.artifact.schema import PlainDict, Record, Sha256
from cmexport.recipes.identity import file_hash, hashes_below


class StepState(Record):
    """One step's file.

    Attributes:
        step: its name.
        key: see `identity.step_key`.
        outcome: "writing" while results are moved to their place; then "done", or "gate" for a failed gate, which
            would fail again.
        entries: files and folders that are the step's, relative to the output folder. While "writing", also those of
            the run before.
        outputs: SHA-256 of every file in them.
        facts: parity and sizes, for the summary.
        message: one line.
        seconds: how long it took.
    """

    schema_version: Literal[1] = 1
    step: str
    key: Sha256
    outcome: Literal["writing", "done", "gate"]
    entries: tuple[str, ...]
    outputs: dict[str, Sha256] = Field(default_factory=dict)
    facts: PlainDict = Field(default_factory=dict)
    message: str = ""
    seconds: float = Field(default=0.0, ge=0)


def read_state(path: Path) -> StepState | None:
    """The state in a file; None where there is none that this version understands."""
    try:
        return StepState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, RecursionError):
        return None


def write_state(path: Path, state: StepState) -> None:
    """Write it whole.

    Raises:
        OutputError: the disk refuses.
    """
    write_atomically(path, state.model_dump_json(indent=1).encode() + b"\n")


def hash_entries(out: Path, entries: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of all files of some entries, by path relative to the output folder."""
    found: dict[str, str] = {}
    for entry in entries:
        path = out / entry
        if path.is_dir():
            found |= {f"{entry}/{name}": digest for name, digest in hashes_below(path).items()}
        elif path.is_file():
            found[entry] = file_hash(path)
    return found


def still_holds(state: StepState | None, key: str, out: Path) -> bool:
    """Whether a step is done: the same question, and its results lie there unchanged."""
    if state is None or state.key != key or state.outcome == "writing":
        return False
    try:
        return all((out / path).is_file() and file_hash(out / path) == digest for path, digest in state.outputs.items())
    except OSError:
        return False
