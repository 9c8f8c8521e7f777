"""Runs a plan: what is done stays done, the rest in processes, a failure stops only what needs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmexport.artifact import reject_name
from cmexport.errors import CmexportError
from cmexport.recipes.children import Child, Ended, stop
from cmexport.recipes.identity import file_hash, step_key, tree_hash
from cmexport.recipes.lifeline import Lifeline
from cmexport.recipes.outcomes import GATE, Outcome, Status, facts_of, misses_gate, of_failure
from cmexport.recipes.state import StepState, hash_entries, read_state, still_holds, write_state
from cmexport.recipes.steps import KEPT, PLANS, WORK, Run, Step
from cmexport.recipes.workplace import (
    Workplace,
    check_free,
    check_same_checkpoint,
    move_into_place,
    only_run,
    refuse_other_weights,
    remove_entry,
)
from cmexport.threads import default_threads

_POLL_S = 0.05


@dataclass(frozen=True)
class Watch:
    """Callbacks while a plan runs: `started(step)`, `ended(outcome)`, `tick()` many times a second."""

    started: Callable[[Step], None] = lambda _: None
    ended: Callable[[Outcome], None] = lambda _: None
    tick: Callable[[], None] = lambda: None


def run_plan(plan: Run, watch: Watch) -> tuple[Outcome, ...]:
    """Run all steps; outcomes in the plan's order.

    Raises:
        UsageError: another run works in the output folder.
        OutputError: the output folder can't be written.
        KeyboardInterrupt: steps were ended; what was done by then is kept.
    """
    place = Workplace(plan.out)
    with only_run(place) as lock:
        place.clear()
        place.prepare()
        run = _Run(plan, place, lock, watch)
        try:
            return run.finish()
        finally:
            run.close()
            place.clear()


def check_checkpoint(plan: Run) -> None:
    """Refuse a run whose results would take the place of another checkpoint's, before anything is done.

    Only a file is asked here: a folder's or a module's weights, and those with LoRAs, are known when they are loaded,
    and the steps refuse.

    Raises:
        UsageError: an earlier run exported another checkpoint to this folder, and `overwrite` is not given.
    """
    merged = any(text.startswith("lora=") for step in plan.steps for text in step.arguments)
    if plan.overwrite or merged or not plan.checkpoint.is_file():
        return
    place = Workplace(plan.out)
    sha256 = file_hash(plan.checkpoint)
    for step in plan.steps:
        if step.kind == "export" and (known := read_state(place.state(step))) is not None:
            refuse_other_weights([plan.out / entry for entry in known.entries], sha256)


def known_outcomes(plan: Run) -> dict[str, Outcome]:
    """What an earlier run has done already, by step; for showing a plan without touching anything."""
    place = Workplace(plan.out)
    found: dict[str, Outcome] = {}
    for step in plan.steps:
        waited = [found.get(name) for name in (*step.needs, *step.after)]
        if any(outcome is None or not outcome.succeeded for outcome in waited):
            continue
        try:
            outcome = _kept(plan, place, step, found)
        except CmexportError:
            continue
        if outcome is not None:
            found[step.name] = outcome
    return found


class _Run:
    def __init__(self, plan: Run, place: Workplace, lock: int, watch: Watch) -> None:
        self._plan, self._place, self._lock, self._watch = plan, place, lock, watch
        self._lifeline = Lifeline()
        # Asked before the first step runs: afterwards the run itself is what keeps the cores busy.
        self._threads = plan.threads or default_threads()
        self._running: list[Child] = []
        self._left = list(plan.steps)
        self._outcomes: dict[str, Outcome] = {}

    def finish(self) -> tuple[Outcome, ...]:
        while self._left or self._running:
            self._settle()
            if self._start_next():
                continue
            self._watch.tick()
            time.sleep(_POLL_S)
            for child in list(self._running):
                ended = child.poll()
                if ended is not None:
                    self._running.remove(child)
                    self._note(self._collect(child.step, ended))
        return tuple(self._outcomes[step.name] for step in self._plan.steps)

    def close(self) -> None:
        """End whatever still runs."""
        stop(self._running)
        # Ended by us, a step's log says nothing; nor does that of one that was being started or collected just now.
        begun = [s for s in self._plan.steps if s not in self._left and s.name not in self._outcomes]
        for step in begun:
            self._place.log(step).unlink(missing_ok=True)
        self._lifeline.close()

    def _note(self, outcome: Outcome) -> None:
        self._outcomes[outcome.step.name] = outcome
        self._watch.ended(outcome)

    def _settle(self) -> None:
        """Steps that need no process: done before, or something they need is missing."""
        for step in list(self._left):
            if any(name not in self._outcomes for name in (*step.needs, *step.after)):
                continue
            outcome = self._without_process(step)
            if outcome is not None:
                self._left.remove(step)
                self._note(outcome)

    def _without_process(self, step: Step) -> Outcome | None:
        unmet = next((self._outcomes[name] for name in step.needs if not self._outcomes[name].succeeded), None)
        if unmet is not None:
            # One code says it: that of the step at fault. What needs a step that was skipped is skipped too.
            if unmet.status == "skipped":
                return Outcome(step, "skipped", 0, f"needs {unmet.step.name}, which was skipped")
            return Outcome(step, "waiting", unmet.code, f"needs {unmet.step.name}")
        if step.kind in ("verify", "bench", "report") and not any(_usable(step, self._outcomes)):
            skipped = all(self._outcomes[name].status == "skipped" for name in step.after)
            code = 0 if skipped else next(self._outcomes[n].code for n in step.after if self._outcomes[n].code)
            return Outcome(step, "skipped" if skipped else "waiting", code, "there is no artefact for it")
        try:
            return _kept(self._plan, self._place, step, self._outcomes)
        except CmexportError as error:
            return Outcome(step, "failed", error.exit_code, str(error))

    def _start_next(self) -> bool:
        """Start the heaviest step that may run now; False where none may.

        The first of all is the lightest export: somebody waits for the first picture, and the order costs no time.
        """
        if len(self._running) >= self._plan.jobs:
            return False
        ready = [s for s in self._left if all(name in self._outcomes for name in (*s.needs, *s.after))]
        together = [s for s in ready if not s.alone]
        # Measuring begins when everything else that can be done is done; nothing can become ready while it lasts.
        exports = [s for s in together if s.kind == "export"]
        chosen: Step | None
        if exports and not self._picture_begun():
            chosen = min(exports, key=lambda s: s.weight)
        else:
            chosen = max(together, key=lambda s: s.weight, default=None)
        if chosen is None and ready and not self._running:
            chosen = ready[0]
        if chosen is None:
            return False
        self._left.remove(chosen)
        try:
            key = _key(self._plan, chosen, self._outcomes)
            self._place.open_step(chosen, key)
            command = _command(self._plan, self._place, chosen, self._outcomes, key)
            at_once = min(self._plan.jobs, len(self._running) + max(1, len(together)))
            threads = max(1, self._threads // at_once)
            self._running.append(Child(chosen, command, self._place, self._lifeline, self._lock, threads))
        except CmexportError as error:
            self._note(Outcome(chosen, "failed", error.exit_code, str(error)))
            return True
        except OSError as error:
            self._note(Outcome(chosen, "failed", 3, f"{error.filename or self._plan.out}: {error.strerror}"))
            return True
        self._watch.started(chosen)
        return True

    def _picture_begun(self) -> bool:
        """Whether an export runs, or has already left a picture."""
        running = any(child.step.kind == "export" for child in self._running)
        return running or any(o.step.kind == "export" and o.entries for o in self._outcomes.values())

    def _collect(self, step: Step, ended: Ended) -> Outcome:
        """Keep what a process wrote, if it is to be kept."""
        try:
            if ended.code not in (0, GATE):
                return of_failure(step, ended)
            outcome = self._publish(step, ended)
            self._place.log(step).unlink(missing_ok=True)
            self._place.forget(step)
            return outcome
        except CmexportError as error:
            return Outcome(step, "failed", error.exit_code, str(error), seconds=ended.seconds)
        except OSError as error:
            return Outcome(step, "failed", 3, f"{error.filename or step.name}: {error.strerror}", seconds=ended.seconds)
        finally:
            self._place.close_step(step)

    def _publish(self, step: Step, ended: Ended) -> Outcome:
        """Move results to their place.

        Before the first is moved, the state file says that they are this step's: a run that is killed in between is
        followed by one that knows what is its own.
        """
        out, work = self._plan.out, self._place.work(step)
        facts = facts_of(step, ended.printed)
        message = ended.complaint if ended.code == GATE else ""
        if ended.code == 0 and (missed := misses_gate(facts, step.gate_db)) is not None:
            message = missed
            for path in list(work.iterdir()):
                path.rename(reject_name(path))
        if step.output is None and step.kind == "verify":
            self._place.printed(step).rename(work / f"{step.name.partition(':')[2].replace('/', '-')}.json")
        if step.kind == "report":
            _relink(work)
        prefix = f"{step.place}/" if step.place else ""
        entries = tuple(sorted(prefix + path.name for path in work.iterdir()))
        known = read_state(self._place.state(step))
        if not self._plan.overwrite:
            for entry in entries:
                check_free(out, entry, known)
            check_same_checkpoint(out, (*entries, *(known.entries if known else ())), work)
        key = _key(self._plan, step, self._outcomes)
        earlier = () if known is None else known.entries
        mine = tuple(dict.fromkeys((*entries, *earlier)))
        state = self._place.state(step)
        write_state(state, StepState(step=step.name, key=key, outcome="writing", entries=mine))
        for entry in entries:
            move_into_place(work / Path(entry).name, out / entry, self._place.tmp(step) / "aside")
        for entry in earlier:
            if entry not in entries:
                remove_entry(out, entry)
        done = StepState(
            step=step.name,
            key=key,
            outcome="gate" if message else "done",
            entries=entries,
            outputs=hash_entries(out, entries),
            facts=facts,
            message=message,
            seconds=ended.seconds,
        )
        write_state(state, done)
        return _of_state(step, done, fresh=True)


def _relink(work: Path) -> None:
    """Pictures beside the report are named as seen from where it was written, three folders below its place."""
    for path in work.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("](../../../", "]("), encoding="utf-8")


def _of_state(step: Step, state: StepState, *, fresh: bool) -> Outcome:
    status: Status = "done" if fresh else "kept"
    code = 0
    if state.outcome == "gate":
        status, code = "gate", GATE
    return Outcome(step, status, code, state.message, state.entries, dict(state.facts), state.seconds)


def _kept(plan: Run, place: Workplace, step: Step, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """The outcome of an earlier run, if it still holds."""
    state = read_state(place.state(step))
    if state is None or not still_holds(state, _key(plan, step, outcomes), plan.out):
        return None
    return _of_state(step, state, fresh=False)


def _key(plan: Run, step: Step, outcomes: Mapping[str, Outcome]) -> str:
    inputs = {str(path): tree_hash(path) for path in step.reads}
    for entry in _inputs(step, outcomes):
        inputs[entry] = tree_hash(plan.out / entry)
    for name in step.needs:
        for entry in outcomes[name].entries:
            if outcomes[name].step.kind == "plan":
                inputs[entry] = tree_hash(plan.out / entry)
    return step_key(step, inputs, step.gate_db)


def _inputs(step: Step, outcomes: Mapping[str, Outcome]) -> Iterable[str]:
    """What a step works on: everything that the successful steps before it wrote."""
    for outcome in _usable(step, outcomes):
        yield from (entry for entry in outcome.entries if not entry.endswith(".samples"))


def _usable(step: Step, outcomes: Mapping[str, Outcome]) -> Iterator[Outcome]:
    """Those before a step that wrote something for it; a report also shows what missed its gate."""
    for name in step.after:
        if outcomes[name].succeeded or (step.kind == "report" and outcomes[name].status == "gate"):
            yield outcomes[name]


def _command(plan: Run, place: Workplace, step: Step, outcomes: Mapping[str, Outcome], key: str) -> Sequence[str]:
    """The command line of a step."""
    folders = {WORK: str(place.work(step)), PLANS: str(plan.out / "plans"), KEPT: str(place.kept(step, key))}
    arguments = [_placed(argument, folders) for argument in step.arguments]
    inputs = [str(plan.out / entry) for entry in _inputs(step, outcomes)]
    command = [arguments[0], *inputs, *arguments[1:]]
    if step.output is not None:
        command += ["-o", str(place.work(step) / step.output)]
    return [*command, "--json"]


def _placed(argument: str, folders: Mapping[str, str]) -> str:
    head, slash, rest = argument.partition("/")
    return f"{folders[head]}/{rest}" if slash and head in folders else argument
