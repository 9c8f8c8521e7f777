"""Quality against size."""

from __future__ import annotations

from collections.abc import Iterator

from cmexport.report.charts.curves import Point, draw_points
from cmexport.report.gathering import FoundArtifact
from cmexport.report.material import Material
from cmexport.report.scores import DistributionScore, Interval
from cmexport.report.text import NOT_MEASURED, clean, decibels, interval, megabytes, number
from cmexport.report.view import Cell, Chart, Section, Table, measured

_HEAD = (
    *("artefact", "size", "precision", "PSNR, dB", "verdict"),
    *("distance from PyTorch's pictures", "95 % interval", "distance from real pictures", "95 % interval"),
)


def section(material: Material) -> Section:
    """PSNR over megabytes of each artefact; Fréchet distances where they were given."""
    points, rows = [], []
    precisions = sorted({a.facts.precision for a in material.artifacts})
    for index, artifact in enumerate(material.artifacts, 1):
        parity = artifact.manifest.parity
        shipped = None if parity is None else parity.rungs[-1].difference
        if shipped is not None and shipped.mean_db is not None:
            colour = precisions.index(artifact.facts.precision)
            points.append(Point(index, artifact.facts.size_bytes / 1e6, shipped.mean_db, colour))
        rows.append(
            (
                Cell(f"{index}. {material.label(artifact)}"),
                Cell(megabytes(artifact.facts.size_bytes)),
                Cell(artifact.facts.precision),
                measured(NOT_MEASURED if shipped is None else decibels(shipped.mean_db, identical=shipped.identical)),
                _verdict(artifact),
                *_distances(distribution_of(material, artifact)),
            )
        )
    title = "Mean PSNR against PyTorch over the size of the files"
    chart = Chart(
        "size",
        title,
        "Numbered points: megabytes across (logarithmic), decibels up; the numbers are those of the table below.",
        lambda width: draw_points("size", title, "Numbered as in the table.", points, "MB", "dB", width),
    )
    return Section(
        "size",
        "Quality against size",
        "PSNR says how near an artefact is to PyTorch picture by picture; a Fréchet distance says how good thousands "
        "of them are as a whole (from verify --features F --json).",
        charts=(chart,) if points else (),
        tables=(Table("Quality and size", _HEAD, tuple(rows)),) if rows else (),
        notes=_parts(material) if rows else ("sizes and PSNR are in artefacts' folders, and none was named",),
    )


def _parts(material: Material) -> tuple[str, ...]:
    """Say what share of weights, time and error each part has, where there are several."""
    notes = []
    for artifact in material.artifacts:
        checkpoint = artifact.manifest.checkpoint
        shares = (f"{n.replace('_', ' ')} {100 * c / checkpoint.parameters:.0f} %" for n, c in checkpoint.parts.items())
        if said := ", ".join(shares):
            notes.append(f"{checkpoint.file}: of {checkpoint.parameters / 1e6:,.1f} million weights, {said}")
        notes += [f"{material.label(artifact)}: {said}" for said in _in_turn(artifact)]
    return tuple(dict.fromkeys(notes))


def _in_turn(artifact: FoundArtifact) -> Iterator[str]:
    """Say which shares of a picture's time its graphs take, and what each costs alone, where several run in turn."""
    parity = artifact.manifest.parity
    if parity is None or not parity.time_shares:
        return
    times = ", ".join(f"{name} {100 * share:.0f} %" for name, share in parity.time_shares.items())
    yield f"of a picture's time in {clean(parity.rungs[-1].name)} on the host, {times}"
    scores = {name: "identical" if db is None else f"{db:.1f} dB" for name, db in parity.alone_db.items()}
    if scores:
        yield f"with only this part from the file, {', '.join(f'{name} {score}' for name, score in scores.items())}"


def distribution_of(material: Material, artifact: FoundArtifact) -> DistributionScore | None:
    """Return what `verify --features` found about an artefact, where its output was named."""
    found = (s.of_graph(artifact.folder.resolve().name, artifact.facts.task) for s in material.gathered.scores)
    return next((score for score in found if score is not None), None)


def _distances(score: DistributionScore | None) -> tuple[Cell, ...]:
    known = None if score is None else score.distances
    cells: list[Cell] = []
    for estimate in (None, None) if known is None else (known.artifact_reference, known.artifact_real):
        cells += _estimate(estimate)
    return tuple(cells)


def _estimate(estimate: Interval | None) -> list[Cell]:
    if estimate is None:
        return [measured(NOT_MEASURED), measured(NOT_MEASURED)]
    return [measured(number(estimate.value)), measured(interval(estimate.low, estimate.high))]


def _verdict(artifact: FoundArtifact) -> Cell:
    if artifact.manifest.parity is None:
        return Cell("not verified", "none")
    return Cell("FAILED", "bad") if artifact.rejected else Cell("passed", "good")
