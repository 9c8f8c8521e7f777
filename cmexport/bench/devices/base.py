"""What a device is to `cmexport bench`, and what it is given to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cmexport.bench.schema import ArtifactRecord, BenchRecord, DeviceRecord
from cmexport.errors import UsageError
from cmexport.progress import Progress
from cmexport.runner import Array
from cmexport.signature import Signature
from cmexport.targets.registry import INFOS


@dataclass(frozen=True)
class MeasureOptions:
    """What was asked of a measurement: runs, threads, unit, energy, time.

    Attributes:
        min_runs: timed runs at least, in each repeat.
        min_seconds: seconds of timed runs at least, in each repeat.
        max_seconds: seconds of timed runs at most, in each repeat, whatever their number; 0: no limit.
        require_quiet: don't measure, or keep, what other work disturbs.
        warmup: runs after the first one that are not timed.
        threads: threads per run; 0 leaves it to the runtime.
        rounds: turns that each artefact takes within a repeat, interleaved with the others'.
        repeats: how often all of that is done again; medians must agree within 5 %.
        sustained_minutes: minutes of back-to-back runs afterwards, for each artefact.
        energy: "auto", "off", or the name of a source.
        provider: unit or execution provider asked for; "auto" takes the one that the artefact was made for.
        pictures: pictures compared with the reference on the device.
        seed: seed of picture 0.
        samples: folder that receives the side files of raw samples; None: they are not kept.
        run: the same for all records of one command.
    """

    min_runs: int = 30
    min_seconds: float = 10.0
    max_seconds: float = 120.0
    require_quiet: bool = False
    warmup: int = 3
    threads: int = 0
    rounds: int = 5
    repeats: int = 1
    sustained_minutes: float = 0.0
    energy: str = "auto"
    provider: str = "auto"
    pictures: int = 4
    seed: int = 0
    samples: Path | None = None
    run: str = ""


@dataclass(frozen=True)
class DeviceOptions:
    """How to reach a device; each kind takes what concerns it.

    Attributes:
        identity: private key for ssh; None: the agent's and the usual ones.
        known_hosts: file of host keys for ssh; None: ~/.ssh/known_hosts.
        python: interpreter on the device; "" finds one.
        native: a runner built for the device, for adb; None: Python there.
        host: address that a server for browsers binds to.
        port: of that server; 0 takes a free one.
        keep: keep serving after the first visitor.
        show: prints what a person must see at once, an address to open, say.
    """

    identity: Path | None = None
    known_hosts: Path | None = None
    python: str = ""
    native: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    keep: bool = False
    show: Callable[[str], None] = print


@dataclass(frozen=True, eq=False)
class ExpectedPictures:
    """What the device's pictures are compared with.

    Attributes:
        reference: what made them, for the record.
        images: float32 (pictures, C, H, W) in [-1, 1] or uint8 (pictures, H, W, C).
        gate_db: mean PSNR to reach, as it applies to the artefact's output.
    """

    reference: str
    images: Array
    gate_db: float


@dataclass(frozen=True, eq=False)
class BenchJob:
    """One artefact, ready to be run anywhere.

    Attributes:
        artifact: facts for the record.
        folder: where its files lie.
        files: model file first, then weights, relative to `folder` with forward slashes.
        signature: the graph's border.
        runs: the inputs of each parity run, drawn by the host; run 0 is also the one that is timed.
        expected: the pictures that those runs must give, or why there are none.
        session: execution provider ("ep") and session options the artefact was made for.
    """

    artifact: ArtifactRecord
    folder: Path
    files: tuple[str, ...]
    signature: Signature
    runs: tuple[Mapping[str, Array], ...]
    expected: ExpectedPictures | str
    session: Mapping[str, object] = field(default_factory=dict)


def check_runnable(jobs: Sequence[BenchJob], kind: str, who_runs: str) -> None:
    """Refuse artefacts of targets that a kind of device doesn't run.

    Raises:
        UsageError: naming the first.
    """
    able = {info.name: info.title for info in INFOS.values() if kind in info.devices}
    for job in jobs:
        if job.artifact.target not in able:
            known = " and ".join(able.values())
            raise UsageError(f"{job.artifact.name}: {who_runs} {known} artefacts, not {job.artifact.target}")


class Device(Protocol):
    """A place where artefacts run. `registry.device_named` opens one from what the user typed."""

    @property
    def name(self) -> str:
        """How it was addressed, without secrets."""
        ...

    def describe(self) -> DeviceRecord:
        """Describe the device as it is now.

        Raises:
            BackendError: it can't be reached.
        """
        ...

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Measure; one record per job, also for those that fail (`failure`), each as soon as it is complete.

        On Ctrl-C, or when the connection is lost, what was measured is still yielded, flagged "interrupted" or
        "disconnected"; after Ctrl-C KeyboardInterrupt is raised at the end.

        Raises:
            BackendError: nothing could be started at all.
        """
        ...
