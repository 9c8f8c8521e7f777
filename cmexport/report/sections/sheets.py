"""Contact sheets: reference | artefact | difference, from `preview.png`."""

from __future__ import annotations

from cmexport.report.gathering import FoundArtifact
from cmexport.report.material import Material
from cmexport.report.pictures import read_picture
from cmexport.report.sections.parity import verdict
from cmexport.report.view import Section, Sheet


def section(material: Material) -> Section:
    """One sheet for each graph of each artefact."""
    sheets = tuple(_sheet(material.label(artifact), artifact) for artifact in material.artifacts)
    return Section(
        "pictures",
        "Pictures",
        "The same noise through PyTorch and through the artefact, and their difference, amplified 16 times (black: "
        "equal).",
        sheets=sheets,
        notes=() if sheets else ("contact sheets lie in artefacts' folders, and none was named",),
    )


def _sheet(label: str, artifact: FoundArtifact) -> Sheet:
    picture = read_picture(artifact)
    if isinstance(picture, str):
        return Sheet(label, verdict(artifact), "", 0, 0, "", picture)
    return Sheet(label, verdict(artifact), picture.data, picture.width, picture.height, str(picture.path), "")
