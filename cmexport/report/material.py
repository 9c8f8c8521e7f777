"""What every section draws from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cmexport.report.battery import Battery
from cmexport.report.gathering import FoundArtifact, Gathered
from cmexport.report.runs import recompute
from cmexport.report.selecting import Shown, select
from cmexport.report.text import clean


@dataclass(frozen=True)
class Material:
    """Everything gathered, recomputed and selected.

    Attributes:
        gathered: as it was found.
        shown: the newest runs.
        battery: what `--battery` said, for devices that the table doesn't have.
    """

    gathered: Gathered
    shown: tuple[Shown, ...]
    battery: Battery | None = None

    @property
    def artifacts(self) -> tuple[FoundArtifact, ...]:
        """All graphs of all artefacts."""
        return self.gathered.artifacts

    def label(self, artifact: FoundArtifact) -> str:
        """Return an artefact's name; its folder too where two have the same name."""
        name = artifact.facts.name
        twice = sum(a.facts.name == name for a in self.artifacts) > 1
        return clean(f"{name} in {artifact.folder.parent.name}" if twice else name)


def prepare(
    gathered: Gathered,
    battery: Battery | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Material:
    """Recompute every record and choose the newest runs; `tell` hears of each record."""
    runs = []
    for index, found in enumerate(gathered.records):
        runs.append(recompute(found, gathered.artifacts))
        tell(index + 1, len(gathered.records))
    return Material(gathered, select(runs), battery)
