"""How many threads to compute with, and whether they may spin while they wait.

A pool as large as the machine is right only where nobody else computes. Two pools of two threads on two cores wait for
each other: ONNX Runtime's spin while they do, and a file that takes 21 ms alone took 188.

| asked for by | threads |
|---|---|
| `--threads N` | N |
| `CMEXPORT_THREADS`: the share that `cmexport run` gives a step | that |
| `OMP_NUM_THREADS` | that: who sets it means every library |
| nobody | the cores this process may use (affinity, cgroup quota), less those that other work keeps busy |
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmexport.errors import UsageError

VARIABLE = "CMEXPORT_THREADS"

BUSY_CORES = 0.25
"""Others' work above this delays a thread often enough that waiting must not burn a core."""

_ROOT = Path("/")
# Ticks of /proc/stat are 10 ms: two cores over 0.2 s are known to 0.1 core.
_WINDOW_S = 0.2
# What happened longer ago says little about now.
_STALE_S = 10.0
# /proc/stat: user nice system idle iowait irq softirq steal; guests are part of user.
_AT_WORK = (0, 1, 2, 5, 6, 7)


@dataclass(frozen=True)
class CpuReading:
    """Processor seconds so far: of everybody on the cores this process may use, and of this process."""

    at_s: float
    everybody_s: float
    own_s: float


def affinity() -> frozenset[int] | None:
    """Return the cores this process may run on; None where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return None


def usable_cores(root: Path = _ROOT) -> int:
    """Cores by affinity and cgroup quota, at least 1."""
    mine = affinity()
    cores = len(mine) if mine is not None else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Cores' worth of time that the cgroups of this process grant, the smallest; None without a limit."""
    found = [quota for folder in _cgroup_folders(root) if (quota := _quota_of(folder)) is not None]
    return min(found, default=None)


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """List the control groups of this process, up to the root: a limit further up holds too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / controllers
        # In a container the path may be the host's, of which only the end, or nothing, is mounted.
        inside = base / path.lstrip("/")
        yield inside
        for folder in inside.parents:
            if folder == base.parent or not folder.is_relative_to(base):
                break
            yield folder


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):  # no such controller; "max"
        return None


def read_cpu(root: Path = _ROOT) -> CpuReading | None:
    """Processor time until now; None where the system does not tell it without further libraries."""
    mine = affinity()
    try:
        lines = (root / "proc/stat").read_text().splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    spent = 0
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and (mine is None or int(name[3:]) in mine):
            spent += sum(int(fields[index]) for index in _AT_WORK if index < len(fields))
    own = os.times()
    return CpuReading(time.monotonic(), spent / ticks, sum(own[:4]))


_before = read_cpu()
_answer: float | None = None


def others_at_work() -> float | None:
    """Cores that other processes have kept busy since this was last asked; None where unknown.

    Asked for the first time soon after the start, or after a long pause, it takes 0.2 s; asked twice within 0.2 s it
    says the same again.
    """
    global _before, _answer
    earlier = _before
    if earlier is None or time.monotonic() - earlier.at_s > _STALE_S:
        earlier, _answer = read_cpu(), None
    if earlier is None:
        return None
    left = _WINDOW_S - (time.monotonic() - earlier.at_s)
    if left > 0 and _answer is not None:
        return _answer
    time.sleep(max(0.0, left))
    now = read_cpu()
    _before, _answer = now, None if now is None else others_between(earlier, now)
    return _answer


def others_between(earlier: CpuReading, now: CpuReading) -> float:
    """Cores that other processes kept busy between two readings."""
    spent = (now.everybody_s - earlier.everybody_s) - (now.own_s - earlier.own_s)
    return max(0.0, spent / max(now.at_s - earlier.at_s, 1e-3))


def default_threads(environment: Mapping[str, str] | None = None) -> int:
    """Threads where nobody asked for a number: see the table above.

    Raises:
        UsageError: CMEXPORT_THREADS is no number of threads.
    """
    environment = os.environ if environment is None else environment
    share = environment.get(VARIABLE, "")
    if share:
        if not share.isdecimal() or int(share) < 1:
            raise UsageError(f"{VARIABLE}={share}: must be a number of threads, 1 or more")
        return int(share)
    everywhere = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if everywhere.isdecimal() and int(everywhere) >= 1:
        return int(everywhere)
    mine = affinity()
    cores = len(mine) if mine is not None else os.cpu_count() or 1
    others = others_at_work() or 0.0
    # Half a core is worth a thread; a quota is ours whatever others do.
    return max(1, min(usable_cores(), int(cores - others + 0.5)))


_chosen: int | None = None


def use_threads(asked: int | None) -> int:
    """Size this process's pools, PyTorch's too, to `asked` threads; None: to the default.

    Raises:
        UsageError: CMEXPORT_THREADS is no number of threads.
    """
    global _chosen
    _chosen = default_threads() if asked is None else asked
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(_chosen)
    else:  # importing it here would cost 2.6 s; it asks these
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(_chosen)
    return _chosen


def threads() -> int:
    """Threads for one pool of this process."""
    global _chosen
    if _chosen is None:
        _chosen = default_threads()
    return _chosen


def let_waiting_threads_sleep() -> None:
    """Have PyTorch's pool (GNU OpenMP) put threads that wait to sleep; works only before torch is imported.

    They burn their cores otherwise: beside two busy processes an export of the demo takes 56 s and 31 of processor
    time, and 37 s and 17 this way. Alone it takes 14 s either way. Whoever sets OpenMP's own variables keeps them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


def may_spin() -> bool:
    """Whether threads that wait may burn their cores.

    Two threads on an idle machine of two cores are a fifth faster with it (14.4 ms a picture against 16.6), and up to
    nine times slower beside other work. Only where this process has all cores to itself: fewer threads than cores means
    that somebody else has the rest.
    """
    if threads() < usable_cores():
        return False
    others = others_at_work()
    return others is not None and others < BUSY_CORES
