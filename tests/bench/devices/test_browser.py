"""A real browser opens the served page; and visitors who behave worse than one."""

from __future__ import annotations

import json
import queue
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.devices.browser import Address
from cmexport.bench.devices.registry import device_named
from cmexport.bench.jobs import prepare_job
from cmexport.bench.on_device import device_files
from cmexport.bench.schema import BenchRecord
from cmexport.bench.web.pages import Page
from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.errors import BackendError, UsageError
from cmexport.exporting import ExportOptions, export_model
from cmexport.model import SampleRequest
from cmexport.progress import Progress
from cmexport.targets.info import LoweringOptions

try:
    Page.read(device_files("web"))
    VENDORED = True
except BackendError:
    VENDORED = False
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_library = pytest.mark.skipif(not VENDORED, reason="onnxruntime-web is not vendored: make web")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Opens a link in headless Chromium, with name resolution switched off but for this machine."""
    opened: list[subprocess.Popen[bytes]] = []

    def show(text: str) -> None:
        link = next(word for word in text.split() if word.startswith("http"))
        command = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--ignore-certificate-errors",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={tmp_path / 'profile'}",
            link,
        ]
        opened.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    yield show
    for process in opened:
        process.terminate()
        process.wait(timeout=30)


@needs_library
@needs_browser
def test_chromium_runs_the_demo_model_and_gives_the_reference_pictures(
    browser: Callable[[str], None], tmp_path: Path
) -> None:
    model = load_checkpoint(demo_checkpoint(), {})
    exporting = ExportOptions(lowering=LoweringOptions(precision="fp32"), verify=None)
    folder = export_model(model, SampleRequest(), exporting, tmp_path / "out").folder
    options = MeasureOptions(min_runs=30, min_seconds=2.0, samples=tmp_path / "samples", provider="wasm", run="test")
    job = prepare_job(folder, options, Progress())
    device = device_named("browser", DeviceOptions(show=browser))
    (record,) = device.run([job], options, Progress())
    assert record.failure is None
    assert record.timing_ms.n >= 30
    assert record.validity.min_runs_met
    assert record.validity.min_seconds_met
    assert record.parity.pictures == 4
    assert record.parity.reference is not None
    assert record.parity.reference.startswith("PyTorch float32")
    assert record.parity.identical or (record.parity.mean_db is not None and record.parity.mean_db >= 60.0)
    assert (record.backend.name, record.backend.requested, record.backend.realized) == (
        "onnxruntime-web",
        "wasm",
        "wasm",
    )
    assert record.backend.version == json.loads((device_files("web") / "vendor.json").read_text())["version"]
    assert record.device.facts["cross_origin_isolated"] is True
    assert record.device.facts["wasm_simd"] is True
    assert record.device.facts["wasm_threads"] is True
    assert "Chrome" in str(record.device.facts["user_agent"])
    assert record.timing_ms.load_cold is not None
    assert record.timing_ms.first is not None
    assert record.memory_mb.peak is not None
    assert record.memory_mb.peak > 27.0  # the weights alone
    assert record.energy.grade == "D"
    assert (tmp_path / str(record.timing_ms.samples)).is_file()


@needs_library
@needs_browser
def test_two_artefacts_over_https(browser: Callable[[str], None], jobs: list[BenchJob], quick: MeasureOptions) -> None:
    device = device_named("browser", DeviceOptions(host="https://127.0.0.1", show=browser))
    records = list(device.run(jobs, quick, Progress()))
    by_name = [(r.artifact.name, r.backend.requested) for r in records]
    assert [pair for pair in by_name if pair[1] == "wasm"] == [(job.artifact.name, "wasm") for job in jobs]
    for record in records:
        if record.backend.requested == "wasm":
            assert record.failure is None
            assert record.parity.passed is True
            assert record.device.facts["cross_origin_isolated"] is True


@needs_library
@needs_browser
@pytest.mark.parametrize("wrong", ["black", "another"])
def test_a_wrong_first_picture_ends_the_job_without_figures(
    browser: Callable[[str], None], jobs: list[BenchJob], quick: MeasureOptions, wrong: str
) -> None:
    """What JSEP did, the other way round: the browser's picture is right and the reference is not."""
    bad, good = jobs
    assert not isinstance(bad.expected, str)
    images = {"black": np.zeros_like(bad.expected.images) - 1, "another": bad.expected.images[::-1].copy()}[wrong]
    bad = replace(bad, expected=replace(bad.expected, images=images))
    device = device_named("browser", DeviceOptions(show=browser))
    refused, measured = device.run([bad, good], replace(quick, provider="wasm"), Progress())
    assert refused.failure is not None
    assert refused.failure.stage == "self-test"
    assert "WebAssembly here draws a wrong picture" in refused.failure.message
    assert "nothing was measured" in refused.failure.message
    assert [refused.timing_ms.p50, refused.timing_ms.p90, refused.timing_ms.p99] == [None] * 3
    assert refused.timing_ms.n == 0
    assert refused.parity.passed is None
    assert measured.failure is None, "the other artefact is measured"
    assert measured.timing_ms.p50 is not None


def test_the_page_warns_of_the_older_bundle() -> None:
    """JSEP's wrong pictures come without an error: people who take the page for a pattern must read of it there."""
    page = " ".join((device_files("web") / "index.html").read_text(encoding="utf-8").split())
    assert re.search(r"JSEP.*wrong pictures in float32 and black ones in float16, without an error", page)
    assert "ort.webgpu.min.mjs" in page


class Visitor:
    """Does by hand what the page does."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.key = ""

    def ask(self, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(self.link + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    def claim(self) -> None:
        self.key = json.loads(self.ask("claim", b""))["key"]


@pytest.fixture
def visit(jobs: list[BenchJob], quick: MeasureOptions) -> Iterator[Callable[..., list[BenchRecord]]]:
    """Runs the device while a visitor, in a thread, does what the test says."""
    threads: list[threading.Thread] = []

    def run(behave: Callable[[Visitor], None], **options: object) -> list[BenchRecord]:
        links: queue.Queue[str] = queue.Queue()

        def work() -> None:
            behave(Visitor(links.get(timeout=20).split()[-1]))

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        device = device_named("browser", DeviceOptions(show=links.put))
        measuring = MeasureOptions(**{"min_runs": 2, "min_seconds": 0.0, "provider": "wasm", "run": "test", **options})
        return list(device.run(jobs, measuring, Progress()))

    yield run
    for thread in threads:
        thread.join(timeout=20)


META = {"kind": "meta", "contract": 1, "runner": "web", "runtime": "onnxruntime-web", "threads": 1}
SAMPLES = {"kind": "samples", "repeat": 0, "round": 0, "ms": [2.0, 4.0, 6.0], "start_s": 0.0, "end_s": 1.0}


def lines(*found: dict[str, object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in found)


@needs_library
def test_a_page_that_is_closed_leaves_what_it_had_measured(visit: Callable[..., list[BenchRecord]]) -> None:
    def behave(visitor: Visitor) -> None:
        visitor.claim()
        visitor.ask("jobs/0/lines", lines(META, {"kind": "first", "ms": 9.0}, SAMPLES))
        visitor.ask("jobs/0/hidden", b"")
        visitor.ask("leave", b"")

    first, second = visit(behave)
    assert first.timing_ms.p50 == 4.0
    assert first.timing_ms.first == 9.0
    assert {"disconnected", "page_hidden"} <= set(first.validity.flags)
    assert first.failure is not None
    assert first.failure.stage == "connection"
    assert first.parity.passed is None
    assert second.timing_ms.n == 0
    assert second.failure is not None


@needs_library
def test_a_browser_without_webgpu_leaves_no_record_of_it(visit: Callable[..., list[BenchRecord]]) -> None:
    def behave(visitor: Visitor) -> None:
        visitor.claim()
        for job in (0, 2):
            visitor.ask(f"jobs/{job}/lines", lines(META, SAMPLES, {"kind": "done"}))
            visitor.ask(f"jobs/{job + 1}/skip", b"")
            visitor.ask(f"jobs/{job}/verdict", None)

    records = visit(behave, provider="auto")
    assert [r.backend.requested for r in records] == ["wasm", "wasm"]
    assert all(r.failure is None for r in records)


@needs_library
def test_what_the_page_says_about_a_failure_is_in_the_record(visit: Callable[..., list[BenchRecord]]) -> None:
    def behave(visitor: Visitor) -> None:
        visitor.claim()
        error = {"kind": "error", "stage": "load", "message": "no such operator"}
        for job in (0, 1):
            visitor.ask(f"jobs/{job}/lines", lines(META, error))
            assert json.loads(visitor.ask(f"jobs/{job}/verdict", None))["failure"] == "no such operator"

    for record in visit(behave):
        assert record.failure is not None
        assert (record.failure.stage, record.failure.message) == ("load", "no such operator")
        assert record.timing_ms.reasons["load_cold"].endswith("no such operator")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, also where a parent started the tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@needs_library
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_had_come(jobs: list[BenchJob], quick: MeasureOptions) -> None:
    def show(text: str) -> None:
        def work() -> None:
            visitor = Visitor(text.split()[-1])
            visitor.claim()
            visitor.ask("jobs/0/lines", lines(META, SAMPLES))
            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=work, daemon=True).start()

    found = device_named("browser", DeviceOptions(show=show)).run(jobs, quick, Progress())
    record = next(found)
    assert record.timing_ms.n == 3
    assert "interrupted" in record.validity.flags
    with pytest.raises(KeyboardInterrupt):
        next(found)


def test_addresses() -> None:
    assert Address.of("127.0.0.1", 0) == Address("127.0.0.1", 0, https=False)
    assert Address.of("0.0.0.0", 8000) == Address("0.0.0.0", 8000, https=True)
    assert Address.of("http://0.0.0.0", 0) == Address("0.0.0.0", 0, https=False)
    assert Address.of("https://::1", 0) == Address("::1", 0, https=True)
    for host in ("", "ftp://x", "http://", "http://x/y", "://x"):
        with pytest.raises(UsageError, match="--host"):
            Address.of(host, 0)
    with pytest.raises(UsageError, match="--port 70000"):
        Address.of("127.0.0.1", 70000)


@needs_library
def test_what_a_browser_can_not_run(jobs: list[BenchJob]) -> None:
    with pytest.raises(UsageError, match="wasm and webgpu"):
        next(iter(device_named("browser").run(jobs, MeasureOptions(provider="cuda"), Progress())))
    with pytest.raises(UsageError, match="known are"):
        device_named("browser://x")
