"""Kits for browsers, made once a module, with onnxruntime-web as `make web` has fetched it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.chromium import CHROMIUM, Chromium

from cmexport.bench.on_device import device_files
from cmexport.bench.web.pages import vendored
from cmexport.errors import BackendError
from cmexport.kits import make_kit, platform_named
from cmexport.live import LiveServer, Site

try:
    VENDORED = vendored(device_files("web"))
except BackendError:
    VENDORED = {}
RUNTIME = "node_modules/onnxruntime-web"

needs_library = pytest.mark.skipif(not VENDORED, reason="onnxruntime-web is not vendored: make web")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here: apt install nodejs")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")


@pytest.fixture(scope="module")
def kit(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The kit of an artefact, by its name in ../conftest.py; a stand-in for the npm package lies in it."""
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = make_kit(artifact(name), platform_named("web"), tmp_path_factory.mktemp(name)).folder
            package = made[name] / RUNTIME
            (package / "dist").mkdir(parents=True)
            for file, path in VENDORED.items():
                (package / "dist" / file).symlink_to(path)
            exports = {"./wasm": "./dist/ort.wasm.min.mjs", "./webgpu": "./dist/ort.webgpu.min.mjs"}
            (package / "package.json").write_text(json.dumps({"type": "module", "exports": exports}))
        return made[name]

    return find


@contextmanager
def served(folder: Path) -> Iterator[LiveServer]:
    """A kit's folder, as `cmexport serve` serves it."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    server = LiveServer(Site(files, ()), 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    """A headless Chromium without any GPU."""
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


def wait_for(browser: Chromium, expression: str) -> None:
    """Until a JavaScript expression holds on the page, or for 120 s."""
    held = browser.value(
        f"""new Promise((resolve) => {{
          const start = performance.now();
          const look = () => {{
            if ({expression}) resolve(true);
            else if (performance.now() - start > 120000) resolve(false);
            else setTimeout(look, 20);
          }};
          look();
        }})"""
    )
    assert held, f"{expression}: {browser.value('document.body.innerText')}"
