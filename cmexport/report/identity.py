"""Which artefacts and runs are about the same network, so that they may be compared."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.bench.schema import ArtifactRecord
from cmexport.report.text import clean


@dataclass(frozen=True, order=True)
class Network:
    """A checkpoint, doing one task in one batch size; `name` is for people."""

    name: str
    checkpoint: str
    task: str
    batch: int

    @property
    def title(self) -> str:
        """The artefact's name, task and batch, as headings have it."""
        task = "" if self.task == "generate" else f", {self.task}"
        batch = "" if self.batch == 1 else f", batch {self.batch}"
        return f"{self.name}{task}{batch}"


def network_of(facts: ArtifactRecord) -> Network:
    """Return the network of an artefact; one that doesn't tell its checkpoint is compared with nothing but itself."""
    checkpoint = facts.checkpoint_sha256 or f"?{facts.sha256}"
    return Network(f"checkpoint {checkpoint.lstrip('?')[:8]}", checkpoint, clean(facts.task), facts.batch)
