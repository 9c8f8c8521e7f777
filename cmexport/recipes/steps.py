"""What a recipe comes to: steps, each one call of cmexport in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["plan", "export", "verify", "bench", "report"]

WORK, PLANS, KEPT = "{work}", "{plans}", "{kept}"
"""First parts of paths in arguments: the step's own folder; where plans are written; what a stopped step goes on with.
So that what a step depends on does not change with the output folder."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: unique in the recipe, e.g. "onnx/fp16"; state and logs are named after it.
        kind: decides which inputs it takes and what is kept of it.
        arguments: verb and options, without `-o`, `--json` and the artefacts to work on.
        output: what `-o` names in the step's own folder; "" is the folder itself, None: there is no `-o`, what the
            verb prints is the output.
        place: folder below the output folder that receives what the step wrote; "" is the output folder itself.
        reads: files that the arguments name, whose content decides whether the step must be done again.
        needs: steps that must have succeeded.
        after: steps that must have come to an end; what the successful ones wrote is given to the verb.
        target: what an export exports to; "" for the others.
        gate_db: the recipe's own gate for an export; None: only cmexport's.
        optional: a missing library or device is no failure.
        alone: nothing else may run meanwhile, because it measures.
        weight: how long it takes compared with others; the heaviest start first.
    """

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    output: str | None = ""
    place: str = ""
    reads: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    target: str = ""
    gate_db: float | None = None
    optional: bool = False
    alone: bool = False
    weight: int = 1

    @property
    def slug(self) -> str:
        """The name as a file name; names of tables hold no dots."""
        return self.name.replace("/", ".").replace(":", ".")


@dataclass(frozen=True)
class Run:
    """All steps of a recipe, in the order in which they are shown.

    Attributes:
        recipe: the recipe file.
        description: its one line, or "".
        checkpoint: the file or folder that is exported.
        out: the output folder.
        jobs: exports at a time.
        steps: each after all that it needs.
        threads: for all steps that run at a time together; None: the cores that are free when the run begins.
        overwrite: results of another checkpoint, or made by someone else, may be replaced.
    """

    recipe: Path
    description: str
    checkpoint: Path
    out: Path
    jobs: int
    steps: tuple[Step, ...]
    threads: int | None = None
    overwrite: bool = False
