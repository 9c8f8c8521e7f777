"""`--device browser`: a page for any browser, served from here; it runs the artefact and sends its lines back.

By default only this machine can open it. With `--host 0.0.0.0` any phone on the same network can, with the link, once.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions, check_runnable
from cmexport.bench.lines import Line
from cmexport.bench.on_device import device_files
from cmexport.bench.outcome import Outcome, device_record, record_of
from cmexport.bench.schema import BenchRecord, DeviceRecord, PowerRecord
from cmexport.bench.web.certificate import server_context
from cmexport.bench.web.jobs import served_job
from cmexport.bench.web.link import is_loopback, link, qr_code, reachable_host
from cmexport.bench.web.pages import Page
from cmexport.bench.web.server import BenchServer
from cmexport.bench.web.session import Gone, Session, Skipped
from cmexport.errors import UsageError
from cmexport.progress import Progress
from cmexport.runner import Array

NO_ENERGY = "browsers don't tell a page what the device draws"
# The page shows the reference beside its own pictures; more than this would only slow it down.
_SHOWN_PICTURES = 4
_SHOWN_BYTES = 20_000_000
_SHOWN_WAIT_S = 10.0
_PROVIDERS = {"auto": ("wasm", "webgpu"), "wasm": ("wasm",), "cpu": ("wasm",), "webgpu": ("webgpu",)}


@dataclass(frozen=True)
class Address:
    """Where the page for browsers is served.

    Attributes:
        host: name or address; 0.0.0.0 or :: for all of this machine's.
        port: 0 takes a free one.
        https: whether to serve over TLS, with a certificate made for this command.
    """

    host: str
    port: int
    https: bool

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Read `--host` and `--port`. Beyond this machine https is the default, `--host http://ADDRESS` is without.

        Over plain http from another machine browsers give a page one thread and no WebGPU, and the network sees all.

        Raises:
            UsageError: no such scheme or port, or no host.
        """
        scheme, separator, name = host.rpartition("://")
        if scheme not in ("", "http", "https") or (separator and not scheme) or not name or "/" in name:
            raise UsageError(f"--host {host}: give an address of this machine, 0.0.0.0 for all, or http://ADDRESS")
        if not 0 <= port <= 65535:
            raise UsageError(f"--port {port}: ports are 0 (any free one) to 65535")
        return cls(name, port, https=scheme == "https" or (not scheme and not is_loopback(name)))


def open_device(rest: str, options: DeviceOptions) -> BrowserDevice:
    """Open the device that `--device browser` names.

    Raises:
        UsageError: something follows the name, or the address is none.
    """
    if rest:
        raise UsageError(f"--device browser://{rest}: nothing follows `browser`; --host and --port choose the address")
    return BrowserDevice(Address.of(options.host, options.port), options.keep, options.show)


@dataclass(frozen=True)
class BrowserDevice:
    """A browser that opens the link and runs artefacts in its page.

    Attributes:
        address: where the page is served.
        keep: whether to wait for the next visitor, with a new link, after the records of one.
        show: tells the user the link.
    """

    address: Address
    keep: bool
    show: Callable[[str], None]

    @property
    def name(self) -> str:
        """The device's name in records."""
        return "browser"

    def describe(self) -> DeviceRecord:
        """Describe nothing yet: the browser tells about itself when it comes."""
        why = "known when the page is opened"
        return DeviceRecord.known(why, name=self.name, kind="browser", power=PowerRecord.known(why))

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Serve the page, and yield a record for each job and provider as its last line arrives.

        With provider "auto" each artefact runs in WebAssembly and then, where the browser has it, in WebGPU.

        Raises:
            BackendError: the page or onnxruntime-web is missing, or the address can't be listened on.
            UsageError: a provider that browsers don't have, or an artefact that isn't ONNX.
        """
        planned = [(job, provider) for job in jobs for provider in _providers(options.provider)]
        check_runnable(jobs, "browser", "a browser runs")
        served = [served_job(job, provider, options) for job, provider in planned]
        page = Page.read(device_files("web"))
        host = reachable_host(self.address.host)
        tls, fingerprint = server_context(host) if self.address.https else (None, "")
        server = BenchServer(self.address.host, self.address.port, page, Session(served), tls)
        with _serving(server):
            while True:
                session = server.session
                self._invite(link("https" if tls else "http", host, server.port, session.token), fingerprint)
                progress.step("waiting for a browser")
                while not session.wait_for_claim(0.5):
                    pass
                yield from _visit(session, planned, options, progress)
                if not self.keep:
                    return
                server.session = Session(served)

    def _invite(self, url: str, fingerprint: str) -> None:
        own = is_loopback(self.address.host)
        lines = [f"Open this link in a browser{'' if own else ' on the device'}; it is good for one visit:", f"  {url}"]
        if not own:
            code = qr_code(url)
            lines.append(code if code else "(for a QR code: pip install 'cmexport[bench]')")
            lines.append(
                f"The browser will warn of an unknown certificate. Its SHA-256 fingerprint: {fingerprint}"
                if fingerprint
                else "Over plain http browsers give this page one thread and no WebGPU; https gives it both."
            )
        self.show("\n".join(lines))


def _providers(asked: str) -> tuple[str, ...]:
    if asked not in _PROVIDERS:
        raise UsageError(f"--provider {asked}: a browser has wasm and webgpu")
    return _PROVIDERS[asked]


@contextmanager
def _serving(server: BenchServer) -> Iterator[None]:
    """Answer requests in a thread of their own for as long as the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _visit(
    session: Session, planned: Sequence[tuple[BenchJob, str]], options: MeasureOptions, progress: Progress
) -> Iterator[BenchRecord]:
    for index, (job, provider) in enumerate(planned):
        outcome, begun, interrupted = Outcome(), False, False
        title = f"{job.artifact.name}, {provider}"
        progress.step(f"{title}: waiting for the page")
        try:
            for item in session.lines(index):
                if isinstance(item, Skipped):
                    break
                if isinstance(item, Gone):
                    outcome.fail("connection", item.reason, "disconnected")
                    break
                begun = True
                outcome.add(item)
                progress.step(f"{title}: {_told(item, outcome)}")
        except KeyboardInterrupt:
            session.leave("cmexport was stopped")
            interrupted = True
            outcome.flag("interrupted")
        # Optional jobs that never began leave no record; neither does anything after Ctrl-C.
        if begun or (not interrupted and outcome.failure is not None and not session.jobs[index].optional):
            for flag in session.flags(index):
                outcome.flag(flag)
            record = _record(job, provider, options, outcome)
            session.judge(index, _verdict(record, job))
            yield record
        if interrupted:
            raise KeyboardInterrupt
    session.wait_until_shown(_SHOWN_WAIT_S)


def _told(line: Line, outcome: Outcome) -> str:
    runs = sum(len(block.ms) for block in outcome.blocks)
    return f"{runs} runs" if runs else line.kind


def _record(job: BenchJob, provider: str, options: MeasureOptions, outcome: Outcome) -> BenchRecord:
    device = device_record("browser", "browser", outcome.meta, outcome.why)
    return record_of(device, job, options, outcome, NO_ENERGY, requested=provider)


def _verdict(record: BenchRecord, job: BenchJob) -> dict[str, Any]:
    """Return what the page shows when a job is done."""
    parity = record.parity
    expected = None if isinstance(job.expected, str) else job.expected
    shown = None if expected is None else expected.images[:_SHOWN_PICTURES]
    return {
        "failure": record.failure.message if record.failure else None,
        "reference": job.expected if isinstance(job.expected, str) else job.expected.reference,
        "parity": None
        if parity.passed is None
        else {
            "passed": parity.passed,
            "identical": parity.identical,
            "mean_db": parity.mean_db,
            "gate_db": parity.gate_db,
        },
        "expected": None
        if shown is None or shown.nbytes > _SHOWN_BYTES
        else {
            "dtype": str(shown.dtype),
            "shape": list(shown.shape),
            "data": base64.b64encode(_raw(shown)).decode(),
        },
    }


def _raw(array: Array) -> bytes:
    """Little-endian bytes in C order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
