"""The model's files in ONNX Runtime: checked, opened once, run in turn, stopped when asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped]

from .errors import Cancelled, ModelDamaged, ModelMissing, RuntimeFailed
from .facts import File, Run

Arrays = dict[str, npt.NDArray[np.generic]]

# How soon a run notices that its event was set.
_NOTICE_SECONDS = 0.01


class Engine:
    """Opened graphs. One run at a time; `stop` may be called from any thread.

    Args:
        folder: where the model's files lie.
        files: all of them.
        providers: ONNX Runtime's execution providers, the first that works is taken.
        threads: of the processor; 0 lets ONNX Runtime choose.
        check: compare SHA-256 too, not just sizes (about 2 s for each GB).

    Raises:
        ModelMissing: a file is not there.
        ModelDamaged: a file is another one.
    """

    def __init__(
        self, folder: Path, files: Sequence[File], providers: Sequence[str], threads: int, check: bool
    ) -> None:
        for file in files:
            _check(folder / file.path, file, check)
        self._folder = folder
        self._providers = list(providers)
        self._threads = threads
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._running: ort.RunOptions | None = None
        self._one_at_a_time = threading.Lock()

    def run(self, run: Run, inputs: Arrays, cancel: threading.Event | None = None) -> npt.NDArray[np.generic]:
        """Make one picture: each graph takes by name what it needs of `inputs` and of what earlier ones gave.

        Raises:
            Cancelled: `cancel` was set, or `stop` called.
            RuntimeFailed: ONNX Runtime refused.
        """
        with self._one_at_a_time:
            options = self._running = ort.RunOptions()
            try:
                with _watched(cancel, options):
                    return self._chain(run, dict(inputs), options, cancel)
            finally:
                self._running = None

    def stop(self) -> None:
        """Give up the picture that is being made; nothing happens where there is none."""
        running = self._running
        if running is not None:
            running.terminate = True

    def close(self) -> None:
        """Free the model's memory."""
        self._sessions.clear()

    def _chain(
        self, run: Run, known: Arrays, options: ort.RunOptions, cancel: threading.Event | None
    ) -> npt.NDArray[np.generic]:
        for graph in run.graphs:
            if options.terminate or (cancel is not None and cancel.is_set()):
                raise Cancelled
            try:
                session = self._session(graph.file)
                (given,) = session.run([graph.output], {name: known[name] for name in graph.inputs}, options)
            except Exception as error:
                # ONNX Runtime has a class of exceptions for each of its codes, and none above them.
                if options.terminate:
                    raise Cancelled from None
                raise RuntimeFailed(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
            known[graph.output] = given
        return known[run.graphs[-1].output]

    def _session(self, file: str) -> ort.InferenceSession:
        if file not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = self._threads
            self._sessions[file] = ort.InferenceSession(self._folder / file, options, providers=self._providers)
        return self._sessions[file]


@contextmanager
def _watched(cancel: threading.Event | None, options: ort.RunOptions) -> Iterator[None]:
    """Stop a run when an event is set."""
    if cancel is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_NOTICE_SECONDS):
            if cancel.is_set():
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _check(path: Path, file: File, whole: bool) -> None:
    if not path.is_file():
        raise ModelMissing(path)
    if path.stat().st_size != file.bytes:
        raise ModelDamaged(path)
    if whole:
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                raise ModelDamaged(path)


def fed(run: Run, given: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
    """Cast what was given to the dtypes of a run's inputs."""
    return {tensor.name: np.asarray(given[tensor.name]).astype(tensor.dtype) for tensor in run.inputs}
