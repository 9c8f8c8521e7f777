"""Which of this machine's sources to read, and the thread that reads it while runs are timed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cmexport.bench.energy.base import EnergySource, Opener, Reading, SourceFacts, monotonic
from cmexport.bench.energy.sysfs import PATTERNS, SysfsSource, battery
from cmexport.bench.energy.zeus_sources import open_nvml, open_rapl, open_soc
from cmexport.errors import BackendError, UsageError

_GPU_PROVIDERS = ("cuda", "tensorrt", "nvtensorrtrtx", "torch-cuda")


@dataclass(frozen=True)
class FileSource:
    """A source of files on this machine."""

    source: SysfsSource
    root: Path

    @property
    def facts(self) -> SourceFacts:
        """What is known of the source: name, rails, grade, timing."""
        return self.source.facts

    def read(self) -> Reading:
        """Read all rails now."""
        return self.source.reading(monotonic(), read_texts(self.source.files, self.root))

    def void(self) -> str:
        """Why its readings mean nothing now."""
        return self.source.void(read_texts(self.source.files, self.root))

    def close(self) -> None:
        """Files are not kept open."""


def read_texts(files: Sequence[str], root: Path = Path("/")) -> dict[str, str | None]:
    """Texts of files below `root`; None for those that can't be read."""
    texts: dict[str, str | None] = {}
    for file in files:
        try:
            texts[file] = (root / file.lstrip("/")).read_text(errors="replace")
        except OSError:
            texts[file] = None
    return texts


def open_battery(root: Path = Path("/")) -> EnergySource | str:
    """Open a laptop's battery gauge, or say why there is none."""
    files = [f"/{p.relative_to(root)}" for pattern in PATTERNS for p in root.glob(pattern.lstrip("/"))]
    found = battery(read_texts(files, root))
    return found if isinstance(found, str) else FileSource(found, root)


SOURCES: Mapping[str, Opener] = MappingProxyType(
    {"nvml": open_nvml, "soc": open_soc, "rapl": open_rapl, "battery": open_battery}
)


def open_energy(wanted: str, provider: str, sources: Mapping[str, Opener] = SOURCES) -> EnergySource | str:
    """Open the source that measures what runs on `provider`; or say why there is none.

    "auto" takes a GPU's counter only for what runs on the GPU, and otherwise the first of SoC, RAPL and battery.

    Raises:
        UsageError: an unknown name.
        BackendError: a source asked for by name is not here.
    """
    if wanted == "off":
        return "switched off with --energy off"
    if wanted != "auto":
        if wanted not in sources:
            raise UsageError(f"--energy {wanted}: known are auto, off, {', '.join(sources)}")
        found = sources[wanted]()
        if isinstance(found, str):
            raise BackendError(f"--energy {wanted}: {found}")
        return found
    gpu = provider.lower() in _GPU_PROVIDERS
    reasons = []
    for name, opener in sources.items():
        if (name == "nvml") == gpu:
            found = opener()
            if not isinstance(found, str):
                return found
            reasons.append(found)
    return "no energy counter here: " + "; ".join(dict.fromkeys(reasons))


class Sampler(threading.Thread):
    """Reads a source again and again. Readings and runners share the machine's monotonic clock.

    Attributes:
        readings: so far, in order.
    """

    def __init__(self, source: EnergySource) -> None:
        super().__init__(daemon=True, name="energy")
        self.readings: list[Reading] = []
        self._source = source
        self._over = threading.Event()
        # Five times as often as it moves, so that each movement's time is known to a fifth; never more than every
        # 10 ms, since reading costs energy as well.
        self._pause_s = max(source.facts.interval_s / 5, 0.01)

    def run(self) -> None:
        """Until `stop`; a source that has gone ends it too."""
        while not self._over.is_set():
            try:
                self.readings.append(self._source.read())
            except Exception:  # vendors' own classes; the trace then ends early and says so by its length
                return
            self._over.wait(self._pause_s)

    def stop(self) -> None:
        """End after the present reading."""
        self._over.set()
        if self.is_alive():
            self.join(timeout=5)
