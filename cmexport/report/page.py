"""The page: its sections in order, and what it is about."""

from __future__ import annotations

from collections import Counter

from cmexport import __version__
from cmexport.report.material import Material
from cmexport.report.runs import ORIGINS
from cmexport.report.sections import (
    diffusion,
    energy,
    history,
    latency,
    parity,
    placement,
    sheets,
    size,
    steps,
    sustained,
    verdicts,
)
from cmexport.report.text import clean
from cmexport.report.view import Page


def build_page(material: Material, title: str) -> Page:
    """All sections; those without anything measured say so."""
    sections = (
        sheets.section(material),
        verdicts.section(material),
        sheets.more(material),
        parity.section(material),
        latency.section(material),
        latency.cold_start(material),
        energy.section(material),
        energy.battery(material),
        sustained.section(material),
        placement.section(material),
        size.section(material),
        steps.section(material),
        diffusion.section(material),
        history.section(material),
    )
    # Nothing older is nothing missing, nor are pictures that all had room at the top.
    kept = tuple(s for s in sections if s.name not in ("older", "more-pictures") or not s.empty)
    return Page(clean(title), tuple(_facts(material)), kept, tuple(map(_note, material.gathered.notes)), __version__)


def _facts(material: Material) -> list[str]:
    records, shown = len(material.gathered.records), len(material.shown)
    older = sum(len(s.older) for s in material.shown)
    devices = list(dict.fromkeys(s.device for s in material.shown))
    checkpoints = {a.facts.checkpoint_sha256 for a in material.artifacts} | {
        s.run.record.artifact.checkpoint_sha256 for s in material.shown
    }
    names = sorted({clean(a.manifest.checkpoint.file) for a in material.artifacts})
    known = ", ".join(f"{c[:12]}…" for c in sorted(c for c in checkpoints if c))
    facts = [f"{records} records ({shown} shown, {older} older); {len(material.artifacts)} artefacts"]
    if known:
        facts.append(f"Checkpoint SHA-256: {known}{f' ({chr(44).join(names)})' if names else ''}")
    for name, said in sorted(_assumed(material)):
        facts.append(f"Assumed of {name}: {said}")
    if devices:
        facts.append(f"Devices: {', '.join(devices)}")
    origins = Counter(ORIGINS[s.run.origin] for s in material.shown)
    if origins:
        facts.append("Figures: " + "; ".join(f"{count} {said}" for said, count in origins.items()))
    return facts


def _assumed(material: Material) -> set[tuple[str, str]]:
    """List settings that were guessed, by checkpoint, and what other readings of its weights gave on pictures."""
    found = set()
    for artifact in material.artifacts:
        manifest = artifact.manifest
        if not manifest.assumed:
            continue
        guesses = "; ".join(f"{a.option.removeprefix('--set ')} ({a.origin})" for a in manifest.assumed)
        check = f". Self-check: {' '.join(manifest.self_check)}" if manifest.self_check else ""
        found.add((clean(manifest.checkpoint.file), clean(guesses + check, 900)))
    return found


def _note(note: str) -> str:
    return clean(note, 400)
