"""`report --check`: every figure of records and manifests that something at hand can contradict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cmexport.artifact import check_files
from cmexport.bench.schema import DeviceParityRecord
from cmexport.errors import CheckpointError, CmexportError
from cmexport.parity.gates import byte_gate, gate_of
from cmexport.report.gathering import FoundArtifact, Gathered
from cmexport.report.runs import recompute
from cmexport.report.text import clean

_GATE_TOLERANCE_DB = 1e-6


@dataclass(frozen=True)
class Findings:
    """What `report --check` found.

    Attributes:
        recomputed: records whose figures were all computed again.
        without_samples: records that never had raw samples.
        artifacts: artefacts whose files and parity were looked at.
        disagreements: one line each.
        missing: files that should be here, one line each.
    """

    recomputed: int
    without_samples: tuple[str, ...]
    artifacts: int
    disagreements: tuple[str, ...]
    missing: tuple[str, ...]


def check(gathered: Gathered) -> Findings:
    """Recompute every record, compare every verdict with its gate, and every artefact's files with their hashes."""
    disagreements: list[str] = []
    missing: list[str] = []
    without: list[str] = []
    recomputed = 0
    for found in gathered.records:
        where = clean(
            f"{found.file}, {found.record.artifact.name}, {found.record.provenance.created:%Y-%m-%d %H:%M:%S}", 400
        )
        run = recompute(found, gathered.artifacts)
        if run.origin == "samples":
            recomputed += 1
        elif run.origin == "record":
            without.append(where)
        else:
            (missing if run.origin == "missing" else disagreements).append(clean(run.complaint, 400))
        disagreements += [f"{where}: {clean(said, 300)}" for said in run.disagreements]
        disagreements += [f"{where}: {said}" for said in _device_parity(found.record.parity)]
    seen = set()
    for artifact in gathered.artifacts:
        name = clean(f"{artifact.folder}", 400)
        disagreements += [f"{name}: {said}" for said in _ladder(artifact)]
        if artifact.folder not in seen:
            seen.add(artifact.folder)
            try:
                check_files(artifact.folder, artifact.manifest)
            except CheckpointError as error:
                disagreements.append(clean(str(error), 400))
    return Findings(recomputed, tuple(without), len(seen), tuple(disagreements), tuple(missing))


def _device_parity(parity: DeviceParityRecord) -> Iterator[str]:
    if parity.passed is None or parity.gate_db is None:
        return
    finite = parity.non_finite == 0
    met = finite and (bool(parity.identical) or (parity.mean_db is not None and parity.mean_db >= parity.gate_db))
    if met != parity.passed:
        said = "passed" if parity.passed else "failed"
        yield f"parity: recorded as {said}, but {parity.mean_db} dB against a gate of {parity.gate_db} dB"


def _ladder(artifact: FoundArtifact) -> Iterator[str]:
    parity = artifact.manifest.parity
    if parity is None:
        return
    try:
        gate = gate_of(artifact.manifest.precision, artifact.manifest.numerics)
    except CmexportError as error:
        yield f"parity: {error}"
        return
    if abs(parity.gate_db - gate) > _GATE_TOLERANCE_DB:
        yield f"parity: gate {parity.gate_db:g} dB, {artifact.manifest.precision} has {gate:g} dB"
    applied = byte_gate(parity.gate_db) if parity.output == "uint8" else parity.gate_db
    if abs(parity.applied_gate_db - applied) > 1e-3:
        yield f"parity: applied gate {parity.applied_gate_db:g} dB, {applied:g} dB follows from {parity.gate_db:g} dB"
    for rung in parity.rungs:
        gate = parity.applied_gate_db if rung.own_gate_db is None else rung.own_gate_db
        found = rung.difference
        met = not found.non_finite and (found.identical or (found.mean_db is not None and found.mean_db >= gate))
        if (follows := rung.sensitivity) is not None:
            met = met and follows.found.passed
        if met != rung.passed:
            said = "passed" if rung.passed else "failed"
            yield f"parity, {clean(rung.name)}: recorded as {said}, but {found.mean_db} dB against {gate:g} dB"
    if parity.passed != all(rung.passed for rung in parity.rungs):
        yield "parity: the verdict is not that of its rungs"
