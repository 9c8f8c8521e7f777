"""`cmexport run RECIPE`: a recipe, end to end, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.errors import UsageError
from cmexport.files import require_file
from cmexport.naming import model_name
from cmexport.recipes.checking import check_document, check_hash, checkpoint_file, missing_checkpoint
from cmexport.recipes.outcomes import Outcome, exit_code
from cmexport.recipes.planning import Chosen, checkpoint_path, plan_run
from cmexport.recipes.reading import read_document
from cmexport.recipes.running import Watch, check_checkpoint, known_outcomes, run_plan
from cmexport.recipes.steps import KEPT, WORK, Run, Step

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file, e.g. recipes/demo.toml.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="DIR", help="Output folder. Default: the recipe's, else out/NAME."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="Checkpoint, instead of the one that the recipe names."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        min=1,
        max=64,
        help="Exports at a time. Default: the recipe's, else 2 for small checkpoints. Benchmarks always run alone.",
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        help="Threads of all steps that run at a time, together. Default: the cores that are free.",
    ),
]

_COLORS = {"done": "green", "kept": "green", "gate": "red", "failed": "red", "skipped": "yellow", "waiting": "yellow"}
_WORDS = {"kept": "done before", "gate": "gate failed", "waiting": "not run"}


def command(
    recipe: RecipeFile,
    out: Out = None,
    checkpoint: Checkpoint = None,
    weights: o.Weights = None,
    dry_run: DryRun = False,
    jobs: Jobs = None,
    threads: Threads = None,
    overwrite: o.Overwrite = False,
    strict: o.Strict = False,
    as_json: o.AsJson = False,
) -> None:
    """Run a recipe: export, verify, bench and report, each step in a process of its own.

    What is done is kept: after a crash or Ctrl-C the same command goes on where it was. A step that fails does not stop
    those that don't need it. The exit code is 0, or that of the first step that failed; 4 where only gates did.
    """
    document = read_document(recipe)
    checked = check_document(document)
    chosen = Chosen(out, jobs, checkpoint, threads, weights, overwrite, strict)
    if checkpoint is not None:
        require_file(checkpoint_file(checkpoint), "a checkpoint", folder=True)
    if checkpoint is not None and not checkpoint_file(checkpoint).exists():
        raise UsageError(f"--checkpoint {checkpoint}: there is no such file")
    file = checkpoint_path(document, checked, chosen)
    missing = missing_checkpoint(document, checked, file)
    plan = plan_run(document, checked, chosen)
    known = {} if missing else known_outcomes(plan)
    if not as_json:
        _show_plan(plan, known)
    if dry_run:
        if missing is not None:
            console.remark(str(missing))
        if as_json:
            console.emit_json(_plan_facts(plan, known))
        return
    if missing is not None:
        raise missing
    check_hash(document, checked, file)
    check_checkpoint(plan)
    begun = time.monotonic()
    with _watching(plan) as watch:
        outcomes = run_plan(plan, watch)
    code = exit_code(outcomes)
    if as_json:
        console.emit_json(_facts(plan, outcomes, code))
    else:
        console.say(_summary(plan, outcomes, time.monotonic() - begun))
    if code:
        raise typer.Exit(code)


def _show_plan(plan: Run, known: Mapping[str, Outcome]) -> None:
    console.say(f"{plan.recipe}: {plan.description}" if plan.description else str(plan.recipe))
    table = Table("step", "does", *(["now"] if known else []))
    for step in plan.steps:
        done = known.get(step.name)
        state = "" if done is None else _WORDS.get(done.status, done.status)
        table.add_row(step.name, Text(_what(step, plan)), *([Text(state)] if known else []))
    console.say(table)
    console.say(f"checkpoint {plan.checkpoint}" + "".join(f", {text}" for text in _settings(plan)))
    at_a_time = "" if plan.jobs == 1 else f", {plan.jobs} exports at a time"
    console.say(f"output {plan.out}{at_a_time}")


def _what(step: Step, plan: Run) -> str:
    """Return the command line in short: without the checkpoint and its constants, which all exports have."""
    pairs = list(zip(step.arguments, (*step.arguments[1:], ""), strict=True))
    own = {
        index + offset for index, (option, value) in enumerate(pairs) for offset in (0, 1) if _of_the_run(option, value)
    }
    shown = [
        Path(argument).name if argument.startswith(("/", "{")) else argument
        for index, argument in enumerate(step.arguments)
        if index not in own and argument != str(plan.checkpoint)
    ]
    gate = "" if step.gate_db is None else f", gate {step.gate_db:g} dB"
    return f"{' '.join(shown)}{gate}{', optional' if step.optional else ''}"


def _of_the_run(option: str, value: str) -> bool:
    """Whether an option and its value are the same for all exports, or name a file of the run's own."""
    return option in ("--set", "--weights") or (option.startswith("--") and value.startswith((f"{WORK}/", f"{KEPT}/")))


def _settings(plan: Run) -> list[str]:
    """Constants that the recipe sets, and the set of weights that it names."""
    exports = [step.arguments for step in plan.steps if step.kind == "export"]
    found = exports[0] if exports else ()
    named = [f"weights {value}" for option, value in pairwise(found) if option == "--weights"]
    return named + [value for option, value in pairwise(found) if option == "--set"]


def _plan_facts(plan: Run, known: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        "recipe": str(plan.recipe),
        "checkpoint": str(plan.checkpoint),
        "out": str(plan.out),
        "jobs": plan.jobs,
        "steps": [
            {
                "step": step.name,
                "arguments": list(step.arguments),
                "needs": list(dict.fromkeys((*step.needs, *step.after))),
                "optional": step.optional,
                "gate_db": step.gate_db,
                "done": step.name in known,
            }
            for step in plan.steps
        ],
    }


def _facts(plan: Run, outcomes: Sequence[Outcome], code: int) -> dict[str, Any]:
    return {
        "recipe": str(plan.recipe),
        "checkpoint": str(plan.checkpoint),
        "out": str(plan.out),
        "exit_code": code,
        "assumed": list({f["option"]: f for outcome in outcomes for f in outcome.facts.get("assumed", ())}.values()),
        "steps": [
            {
                "step": outcome.step.name,
                "status": outcome.status,
                "exit_code": outcome.code,
                "message": outcome.message or None,
                "outputs": [str(plan.out / entry) for entry in outcome.entries],
                "seconds": outcome.seconds,
                **outcome.facts,
            }
            for outcome in outcomes
        ],
    }


def _summary(plan: Run, outcomes: Sequence[Outcome], seconds: float) -> Table:
    table = Table("step", "", "parity, dB", "gate", "MB", "s", "", title=Text("Summary"), title_justify="left")
    for column in table.columns[2:6]:
        column.justify = "right"
    for outcome in outcomes:
        facts = outcome.facts
        parity, gate, size = facts.get("parity_db"), facts.get("gate_db"), facts.get("size_bytes")
        if gate is not None and outcome.step.gate_db is not None:
            gate = max(gate, outcome.step.gate_db)
        table.add_row(
            outcome.step.name,
            _status(outcome),
            "identical" if facts.get("identical") else "" if parity is None else f"{parity:.1f}",
            "" if gate is None else f"{gate:.4g}",
            "" if size is None else f"{size / 1e6:.1f}",
            "" if outcome.seconds is None else f"{outcome.seconds:.0f}",
            Text(outcome.message or _note(plan, outcome)),
        )
    table.caption = Text(f"{seconds:.0f} s; everything is in {plan.out}")
    table.caption_justify = "left"
    return table


def _status(outcome: Outcome) -> Text:
    return Text(_WORDS.get(outcome.status, outcome.status), style=_COLORS[outcome.status])


def _note(plan: Run, outcome: Outcome) -> str:
    """Return what there is to look at."""
    if outcome.step.kind == "bench":
        latencies: Mapping[str, float] = outcome.facts.get("p50_ms", {})
        stem = f"{model_name(plan.checkpoint)}-"
        told = "p50 " + ", ".join(f"{name.removeprefix(stem)} {value:.1f} ms" for name, value in latencies.items())
        faults = [("failed", outcome.facts.get("failed")), ("pictures beyond the gate", outcome.facts.get("off"))]
        faults.append(("measured beside other work", outcome.facts.get("busy")))
        return "; ".join([told, *(f"{what}: {', '.join(names)}" for what, names in faults if names)])
    if outcome.step.kind == "export":
        return ""
    shown = [entry for entry in outcome.entries if not entry.endswith(".samples")]
    return ", ".join(str(plan.out / entry) for entry in shown)


@contextmanager
def _watching(plan: Run) -> Iterator[Watch]:
    """Progress on stderr: lines as steps end, and on a terminal what runs, with its time.

    Raises:
        KeyboardInterrupt: as it came, after saying what is kept.
    """
    stderr = Console(stderr=True, highlight=False)
    running: dict[str, float] = {}
    ended: list[Outcome] = []
    pictures: list[Path] = []
    begun = time.monotonic()
    said: set[str] = set()

    def show() -> Table:
        grid = Table.grid(padding=(0, 1))
        for name, since in running.items():
            grid.add_row(Spinner("dots"), Text(name), Text(f"{time.monotonic() - since:.0f} s"))
        return grid

    def start(step: Step) -> None:
        running[step.name] = time.monotonic()
        if not stderr.is_terminal:
            stderr.print(Text(f"{step.name}: begun"))

    def end(outcome: Outcome) -> None:
        running.pop(outcome.step.name, None)
        ended.append(outcome)
        stderr.print(
            Text.assemble(
                f"[{len(ended)}/{len(plan.steps)}] {outcome.step.name}: ", _status(outcome), _remainder(outcome)
            ),
            soft_wrap=True,
        )
        picture = _picture(plan, outcome)
        if picture is not None and not pictures:
            pictures.append(picture)
            stderr.print(
                Text(f"first picture after {time.monotonic() - begun:.0f} s: {picture}", style="bold"), soft_wrap=True
            )
        for line in _guesses(outcome):
            if line not in said:
                said.add(line)
                console.remark(line)

    try:
        with Live(get_renderable=show, console=stderr, refresh_per_second=4, transient=True) as live:
            live.auto_refresh = stderr.is_terminal
            yield Watch(started=start, ended=end)
    except KeyboardInterrupt:
        done = sum(outcome.status in ("done", "kept", "gate") for outcome in ended)
        console.remark(f"{done} of {len(plan.steps)} steps are done and kept; the same command goes on from there")
        raise


def _picture(plan: Run, outcome: Outcome) -> Path | None:
    """Return what an export leaves to look at, if it passed."""
    if outcome.step.kind != "export" or not outcome.succeeded:
        return None
    found = [plan.out / entry / "preview.png" for entry in outcome.entries]
    return next((path for path in found if path.exists()), None)


def _guesses(outcome: Outcome) -> list[str]:
    """Return what a step chose or guessed of the checkpoint, and what other readings gave on pictures."""
    assumed: Sequence[Mapping[str, str]] = outcome.facts.get("assumed", ())
    taken: Mapping[str, str] | None = outcome.facts.get("weights")
    lines = (
        [] if taken is None else [f"takes the weights '{taken['value']}' ({taken['origin']}); --weights NAME chooses"]
    )
    lines += [
        f"assumed {fact['option'].removeprefix('--set ')} ({fact['origin']}); to set it: [checkpoint.set] in the recipe"
        for fact in assumed
    ]
    return [*lines, *(f"self-check: {line}" for line in outcome.facts.get("self_check", ()))]


def _remainder(outcome: Outcome) -> str:
    seconds = "" if outcome.seconds is None or outcome.status == "kept" else f", {outcome.seconds:.0f} s"
    return seconds + (f": {outcome.message}" if outcome.message else "")
