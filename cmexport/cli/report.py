"""`cmexport report RECORDS...`: one HTML page of records and artefacts, and Markdown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cmexport.artifact import write_atomically
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.errors import CheckpointError, OutputError, ParityError, UsageError
from cmexport.report.battery import battery_asked
from cmexport.report.checking import Findings, check
from cmexport.report.gathering import Gathered, gather
from cmexport.report.material import prepare
from cmexport.report.page import build_page
from cmexport.report.rendering import render_html, render_markdown

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="RECORDS...",
        help="Files of records, artefact folders, folders that hold them, and scores from tune --table --json or "
        "verify --features --json.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")]
AsMarkdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="The same tables as Markdown.", show_default=False)
]
Title = Annotated[str, typer.Option("--title", metavar="TEXT", help="Heading of the page.")]
Check = Annotated[
    bool, typer.Option("--check", help="Write nothing: compute every figure again and print what disagrees.")
]
Battery = Annotated[
    str | None,
    typer.Option(
        "--battery",
        metavar="MODEL|WH",
        help="Battery of devices that the built-in table doesn't have: a model in it, or the rated capacity in Wh.",
        show_default=False,
    ),
]


def command(
    paths: Paths,
    out: Out = Path("report.html"),
    markdown: AsMarkdown = None,
    title: Title = "cmexport report",
    check_only: Check = False,
    battery: Battery = None,
    as_json: o.AsJson = False,
) -> None:
    """One page of everything measured: pictures, parity, latency, energy, devices; no network, no scripts.

    Of each artefact on each device the newest run is shown. Figures are computed from the raw samples where those are
    at hand; what was not measured is shown as not measured.
    """
    capacity = None if battery is None else battery_asked(battery)
    for path in (out, markdown):
        _check_place(path)
    if markdown is not None and markdown.resolve() == out.resolve():
        raise UsageError(f"--markdown {markdown}: that is the page; give it another name")
    with console.working("read") as progress:
        gathered = gather(paths)
        if check_only:
            progress.step("check")
            findings = check(gathered)
        else:
            progress.step("compute")
            material = prepare(gathered, capacity, lambda done, total: progress.pictures("records", done, total))
            page = build_page(material, title)
            html = render_html(page).encode()
            text = None if markdown is None else render_markdown(page, markdown.parent).encode()
    for note in gathered.notes:
        console.remark(note)
    if check_only:
        _show_findings(findings, gathered, as_json)
        return
    write_atomically(out, html)
    if markdown is not None and text is not None:
        write_atomically(markdown, text)
    counts = {
        "records": len(gathered.records),
        "shown": len(material.shown),
        "recomputed": sum(s.run.origin == "samples" for s in material.shown),
        "artifacts": len(gathered.artifacts),
    }
    if as_json:
        written = {"out": str(out), "markdown": None if markdown is None else str(markdown), "bytes": len(html)}
        empty = [s.name for s in page.sections if s.empty]
        console.emit_json({**written, **counts, "not_measured": empty, "notes": list(gathered.notes)})
        return
    console.say(
        f"{out}  {len(html) / 1e6:.2f} MB: {counts['shown']} runs shown of {counts['records']} records, "
        f"{counts['recomputed']} computed from raw samples; {counts['artifacts']} artefacts"
    )
    if markdown is not None:
        console.say(f"{markdown}")


def _check_place(path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path}: a folder; name a file, e.g. {path / 'report.html'}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: {path.parent} is no folder")


def _show_findings(findings: Findings, gathered: Gathered, as_json: bool) -> None:
    """Print them, and fail as they demand.

    Raises:
        ParityError: something disagrees.
        CheckpointError: files of samples are missing.
    """
    if as_json:
        console.emit_json({**asdict(findings), "records": len(gathered.records)})
    else:
        for said in (*findings.disagreements, *findings.missing):
            console.say(said)
        console.say(
            f"{findings.recomputed} of {len(gathered.records)} records computed again from raw samples, "
            f"{len(findings.without_samples)} never had any; {findings.artifacts} artefacts looked at"
        )
    if findings.disagreements:
        raise ParityError(f"{len(findings.disagreements)} disagreements, listed above; measure or export those again")
    if findings.missing:
        raise CheckpointError(
            f"{len(findings.missing)} files of samples are missing: copy the folder FILE.samples along with its records"
        )
