"""`OUT/.cmexport-run/`: everything a run needs for itself, so that what lies elsewhere is either whole or not ours.

    lock                    held while a run or one of its steps lives
    steps/STEP.json         what is known of each step
    logs/STEP.log           what a failed step printed
    work/STEP/              what a step is writing; moved to its place when it is whole
    tmp/STEP/               its TMPDIR
    kept/STEP-KEY/          what a step that was stopped goes on with: the scores of a plan, until it is done

`work` and `tmp` are empty between runs. Whatever a killed run left in them is removed by the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cmexport.artifact.replacing import manifest_facts, other_checkpoint
from cmexport.errors import OutputError, UsageError
from cmexport.recipes.state import StepState
from cmexport.recipes.steps import Step

FOLDER = ".cmexport-run"
_ORPHANS_S = 30.0
"""How long steps of a killed run may take to notice: a benchmark ends what it started first."""


class Workplace:
    """Paths below an output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.root = out / FOLDER

    def state(self, step: Step) -> Path:
        """The step's state file."""
        return self.root / "steps" / f"{step.slug}.json"

    def log(self, step: Step) -> Path:
        """What a failed step printed on its standard error."""
        return self.root / "logs" / f"{step.slug}.log"

    def work(self, step: Step) -> Path:
        """Where the step writes."""
        return self.root / "work" / step.slug

    def tmp(self, step: Step) -> Path:
        """The step's TMPDIR."""
        return self.root / "tmp" / step.slug

    def printed(self, step: Step) -> Path:
        """The step's standard output while it runs."""
        return self.root / "tmp" / f"{step.slug}.out"

    def kept(self, step: Step, key: str) -> Path:
        """What a step that was stopped goes on with, if nothing it depends on changed."""
        return self.root / "kept" / f"{step.slug}-{key[:16]}"

    def prepare(self) -> None:
        """Make the folders that stay.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            for name in ("steps", "logs", "work", "tmp"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: can't be written to: {error.strerror}; choose another with -o") from error

    def open_step(self, step: Step, key: str) -> None:
        """Empty folders for a step."""
        self.close_step(step)
        if step.kind == "plan":
            self.kept(step, key).mkdir(parents=True, exist_ok=True)
        self.work(step).mkdir()
        self.tmp(step).mkdir()

    def close_step(self, step: Step) -> None:
        """Remove what a step needed while it ran."""
        for folder in (self.work(step), self.tmp(step)):
            remove(folder)
        self.printed(step).unlink(missing_ok=True)

    def forget(self, step: Step) -> None:
        """Remove what a step, now done, would have gone on with."""
        for path in (self.root / "kept").glob(f"{step.slug}-*"):
            remove(path)

    def clear(self) -> None:
        """Remove what steps of this or of a killed run left."""
        for name in ("work", "tmp"):
            for path in (self.root / name).glob("*"):
                remove(path)
        for pattern in ("steps/.*.partial-*", "kept/*/.*.partial-*"):
            for path in self.root.glob(pattern):
                path.unlink(missing_ok=True)
        for name in ("logs", "kept"):
            with suppress(OSError):
                (self.root / name).rmdir()  # if it is empty


def remove(path: Path) -> None:
    """Remove a file or a tree; what a dying process still adds meanwhile is removed too."""
    for _ in range(5):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.2)


@contextmanager
def only_run(place: Workplace) -> Iterator[int]:
    """Hold the lock; gives the descriptor, which steps inherit, so that it is held until the last of them ended.

    Raises:
        UsageError: another run works in this folder.
        OutputError: the disk refuses.
    """
    place.prepare()
    try:
        descriptor = os.open(place.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{place.root / 'lock'}: can't be written: {error.strerror}") from error
    try:
        _acquire(descriptor, place)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, place: Workplace) -> None:
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            if _alive(holder) or time.monotonic() > deadline:
                who = f"process {holder}" if holder else "another process"
                raise UsageError(
                    f"{place.out}: another run is working there ({who}); wait for it, or choose another folder with -o"
                ) from None
            time.sleep(0.1)
        except OSError as error:
            raise OutputError(f"{place.root / 'lock'}: this disk can't lock files: {error.strerror}") from error


def _alive(pid: str) -> bool:
    """Whether the process that wrote the lock still runs; one that is just starting hasn't written yet."""
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def check_free(out: Path, entry: str, known: StepState | None) -> None:
    """Refuse to replace anything that is neither an artefact nor an earlier result of the same step.

    Raises:
        OutputError: something else is in the way.
    """
    path = out / entry
    if not os.path.lexists(path) or (known is not None and entry in known.entries):
        return
    if path.is_dir() and not path.is_symlink() and manifest_facts(path) is not None:
        return
    raise OutputError(f"{path}: in the way, and not made by this recipe; remove it, or choose another folder with -o")


def check_same_checkpoint(out: Path, entries: Sequence[str], work: Path) -> None:
    """Refuse to replace or remove artefacts that were made from other weights than those in `work`.

    Raises:
        UsageError: one was.
    """
    made = [facts for path in work.iterdir() if path.is_dir() and (facts := manifest_facts(path)) is not None]
    for sha256 in {str(facts["checkpoint"]["sha256"]) for facts in made}:
        refuse_other_weights([out / entry for entry in entries], sha256)


def refuse_other_weights(folders: Iterable[Path], sha256: str) -> None:
    """Refuse to go on where one of the folders holds an artefact of another checkpoint.

    Raises:
        UsageError: one does.
    """
    for folder in folders:
        facts = manifest_facts(folder)
        if facts is not None and (reason := other_checkpoint(facts, sha256)) is not None:
            raise UsageError(f"{folder}: {reason};\n--overwrite replaces it, -o writes elsewhere")


def move_into_place(source: Path, final: Path, aside: Path) -> None:
    """Rename a whole result to its place; what stood there goes `aside` first and is then removed.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final):
            remove(aside)
            final.rename(aside)
        source.rename(final)
        remove(aside)
    except OSError as error:
        raise OutputError(f"{final}: can't be written: {error.strerror}; choose another folder with -o") from error


def remove_entry(out: Path, entry: str) -> None:
    """Remove an earlier result, and the folders it leaves empty below the output folder."""
    path = out / entry
    remove(path)
    for folder in path.parents:
        if folder == out or out not in folder.parents:
            return
        with suppress(OSError):
            folder.rmdir()
