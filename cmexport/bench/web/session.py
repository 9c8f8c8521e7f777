"""One visit: the link that starts it, the key that the visitor gets for it, and what arrives. Used by many threads."""

from __future__ import annotations

import hmac
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmexport.bench.lines import Line
from cmexport.serving import RefusedError

MAX_POST_BYTES = 64_000_000
"""One post. Four pictures of 1024 x 1024 x 3 floats are 67 MB in base64, but they come one or two at a time."""

MAX_JOB_BYTES = 1_000_000_000
"""All posts of one job."""

SILENCE_S = 180.0
"""A visitor who sends and takes nothing for so long has gone. The longest silence of a working one is a minute of a
sustained run, or opening a model: 10 s for 1.2 GB on a laptop."""


@dataclass(frozen=True)
class ServedFile:
    """A file that only the visitor may fetch: bytes at hand, or a path."""

    content: bytes | Path

    @property
    def size(self) -> int:
        """The file's size, bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True, eq=False)
class ServedJob:
    """One job as the page sees it.

    Attributes:
        name: of the artefact.
        precision: of the artefact.
        provider: "wasm" or "webgpu".
        optional: whether the page leaves it out, without a record, when the browser has no such provider.
        files: by path below the job: `job.json`, the model's files, the inputs.
        model_files: paths of the model's files, the model itself first.
    """

    name: str
    precision: str
    provider: str
    optional: bool
    files: Mapping[str, ServedFile]
    model_files: tuple[str, ...]

    def facts(self, index: int) -> dict[str, Any]:
        """Return what the page is told when it starts."""
        files = [{"path": path, "bytes": self.files[path].size} for path in self.model_files]
        return {
            "index": index,
            "name": self.name,
            "precision": self.precision,
            "provider": self.provider,
            "optional": self.optional,
            "bytes": sum(f.size for path, f in self.files.items() if path in self.model_files),
            "files": files,
        }


@dataclass(frozen=True)
class Gone:
    """The end of a job without its last line; `reason` in words."""

    reason: str


@dataclass(frozen=True)
class Skipped:
    """The page left an optional job out."""


@dataclass(eq=False)
class _Arrivals:
    lines: queue.Queue[Line | Gone | Skipped] = field(default_factory=queue.Queue)
    verdict: dict[str, Any] | None = None
    has_verdict: threading.Event = field(default_factory=threading.Event)
    flags: list[str] = field(default_factory=list)
    shown: threading.Event = field(default_factory=threading.Event)
    taken: int = 0
    ended: bool = False


class Session:
    """A browser's visit, from a fresh link to the last record.

    The link holds a token and is good for one visit: the page trades it for a key, and every request for an artefact
    or with results carries that key. So a link preview, which only fetches the page, doesn't use it up, and whoever
    sees the address over a shoulder comes too late.
    """

    def __init__(self, jobs: Sequence[ServedJob], clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs = tuple(jobs)
        self.token = secrets.token_urlsafe(16)
        self._key = secrets.token_urlsafe(32)
        self._clock = clock
        self._lock = threading.Lock()
        self._claimed = threading.Event()
        self._arrivals = [_Arrivals() for _ in jobs]
        self._seen = clock()
        self._gone: str | None = None

    def has_token(self, token: str) -> bool:
        """Whether it is this visit's."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    @property
    def claimed(self) -> bool:
        """Whether the link was used."""
        return self._claimed.is_set()

    def wait_for_claim(self, timeout_s: float) -> bool:
        """Whether the link was used before the time was over."""
        return self._claimed.wait(timeout_s)

    def claim(self) -> dict[str, Any]:
        """Use the link up: the key and the list of jobs.

        Raises:
            RefusedError: it was used before.
        """
        with self._lock:
            if self._claimed.is_set():
                raise RefusedError(
                    403, "This link was used already: it is good for one visit. Start cmexport bench again."
                )
            self._seen = self._clock()
            self._claimed.set()
        return {"key": self._key, "jobs": [job.facts(i) for i, job in enumerate(self.jobs)]}

    def check_key(self, authorization: str | None) -> None:
        """Refuse a header without the key, by RefusedError."""
        scheme, _, key = (authorization or "").partition(" ")
        right = hmac.compare_digest(key.encode(errors="replace"), self._key.encode())
        if not self._claimed.is_set() or scheme != "Bearer" or not right:
            raise RefusedError(403, "This request has not the key of the visit.")
        self.active()

    def active(self) -> None:
        """Note that the visitor is there."""
        self._seen = self._clock()

    def deliver(self, index: int, lines: Sequence[Line], size: int) -> None:
        """Take lines of a job, all or none.

        Raises:
            RefusedError: the job has ended, or sent too much.
        """
        arrivals = self._arrivals[index]
        with self._lock:
            if arrivals.ended:
                raise RefusedError(409, "This job has ended; nothing more is taken.")
            arrivals.taken += size
            if arrivals.taken > MAX_JOB_BYTES:
                raise RefusedError(413, f"This job sent more than {MAX_JOB_BYTES / 1e6:.0f} MB.")
            for line in lines:
                if arrivals.ended:
                    raise RefusedError(400, "There are lines after the last one.")
                arrivals.lines.put(line)
                arrivals.ended = line.kind in ("done", "error")

    def skip(self, index: int) -> None:
        """Note that the page leaves this job out.

        Raises:
            RefusedError: the job isn't optional, or has begun.
        """
        arrivals = self._arrivals[index]
        with self._lock:
            if not self.jobs[index].optional or arrivals.ended or arrivals.taken:
                raise RefusedError(409, "This job can't be left out.")
            arrivals.ended = True
            arrivals.lines.put(Skipped())

    def leave(self, reason: str) -> None:
        """End every job that has not ended."""
        with self._lock:
            self._gone = self._gone or reason
            for arrivals in self._arrivals:
                if not arrivals.ended:
                    arrivals.ended = True
                    arrivals.lines.put(Gone(reason))

    def lines(self, index: int, poll_s: float = 0.5) -> Iterator[Line | Gone | Skipped]:
        """Lines of a job as they arrive, the last one included; `Gone` when the visitor fell silent."""
        arrivals = self._arrivals[index]
        while True:
            try:
                item = arrivals.lines.get(timeout=poll_s)
            except queue.Empty:
                # Lines that came meanwhile are still taken: the queue is asked again before the end is told.
                if self._clock() - self._seen > SILENCE_S:
                    self.leave(f"the page sent nothing for {SILENCE_S:.0f} s")
                continue
            yield item
            if isinstance(item, Gone | Skipped) or item.kind in ("done", "error"):
                return

    def hidden(self, index: int) -> None:
        """Note that the page was out of sight while the job ran: browsers slow such pages down, or stop them."""
        flags = self._arrivals[index].flags
        if "page_hidden" not in flags:
            flags.append("page_hidden")

    def flags(self, index: int) -> tuple[str, ...]:
        """Return what makes a job's figures doubtful."""
        return tuple(self._arrivals[index].flags)

    def judge(self, index: int, verdict: dict[str, Any]) -> None:
        """Give the page what it may show of a job's record."""
        self._arrivals[index].verdict = verdict
        self._arrivals[index].has_verdict.set()

    def verdict(self, index: int, timeout_s: float) -> dict[str, Any]:
        """Wait for what `judge` is given, and return it.

        Raises:
            RefusedError: it isn't there in time.
        """
        arrivals = self._arrivals[index]
        if not arrivals.has_verdict.wait(timeout_s) or arrivals.verdict is None:
            raise RefusedError(503, "The record is not ready yet.")
        return arrivals.verdict

    def shown(self, index: int) -> None:
        """Note that the visitor has the verdict."""
        self._arrivals[index].shown.set()

    def wait_until_shown(self, timeout_s: float) -> None:
        """Wait for the visitor to fetch the last verdict there is, unless he has gone."""
        judged = [a for a in self._arrivals if a.has_verdict.is_set()]
        if judged and self._gone is None:
            judged[-1].shown.wait(timeout_s)
