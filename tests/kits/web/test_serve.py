"""`cmexport serve` as a command: what it prints and serves, how it ends, what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

from support.chromium import Chromium

from ..conftest import run
from .conftest import needs_browser, needs_library, wait_for


@needs_library
@needs_browser
def test_the_page_of_an_artefact_until_ctrl_c(demo: Path, browser: Chromium, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cmexport", "serve", str(demo), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # A shell starts what runs behind it deaf to Ctrl-C, and Python keeps it so.
    hearing = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=hearing) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}models.json") as answer:
            assert answer.read() == b'["./"]\n'
        browser.go(address)
        wait_for(browser, 'document.body.dataset.state === "ready"')
        assert browser.value("crossOriginIsolated")
        assert browser.said("Log.entryAdded") == []
        assert list(tmp_path.glob("cmexport-serve-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == "ended\n"
    assert list(tmp_path.glob("cmexport-serve-*")) == []


@needs_library
def test_what_is_refused(demo: Path, coreml: Path, tmp_path: Path) -> None:
    code, said = run("serve", tmp_path)
    assert (code, "not an artefact" in said) == (3, True)
    code, said = run("serve", coreml)
    assert (code, "kits for the web take ONNX" in said) == (2, True)
    code, said = run("serve", demo, demo)
    assert (code, "takes 1 steps as another one does" in said) == (2, True)


def test_without_onnxruntime_web(demo: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cmexport.live.site.device_files", lambda _: tmp_path)
    (tmp_path / "vendor.json").write_text('{"files": {"ort.wasm.min.mjs": ""}}')
    code, said = run("serve", demo)
    assert (code, "fetch it once: python" in said) == (5, True)
