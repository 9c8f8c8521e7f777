"""WebGPU in a real browser, on SwiftShader: the file for browsers draws PyTorch's picture."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from support.chromium import CHROMIUM, Chromium

from cmexport.bench.on_device import device_files
from cmexport.bench.web.pages import Page
from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.errors import BackendError
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower

try:
    Page.read(device_files("web"))
    VENDORED = True
except BackendError:
    VENDORED = False

pytestmark = [
    pytest.mark.skipif(not VENDORED, reason="onnxruntime-web is not vendored: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium"),
]

# One picture, as an app would draw it. The import is the bundle that the bench page takes; JSEP's is another.
DRAW = """(async () => {
  const ort = await import("/vendor/ort.webgpu.min.mjs");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  if (!(await navigator.gpu?.requestAdapter())) return "no adapter";
  const session = await ort.InferenceSession.create("/model.onnx", { executionProviders: ["webgpu"] });
  const noise = new Float32Array(await (await fetch("/noise.bin")).arrayBuffer());
  const feeds = { noise: new ort.Tensor("float32", noise, [1, 3, 32, 32]),
                  label: new ort.Tensor("int64", BigInt64Array.of(3n), [1]) };
  const { image } = await session.run(feeds);
  return btoa(String.fromCharCode(...new Uint8Array(image.data.buffer, image.data.byteOffset, image.data.byteLength)));
})()"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the page's library in it, and where it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "vendor").symlink_to(device_files("web") / "vendor")
    (folder / "index.html").write_text("<title>WebGPU</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_demo_draws_the_right_picture(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    model, request = load_checkpoint(demo_checkpoint()), SampleRequest()
    captured = apply_rewrites(capture(resolve(model, request)), REWRITES)
    lower(captured, OnnxOptions(precision="fp32", ep="web"), folder, lambda _: None)
    noise = np.random.default_rng(7).standard_normal((1, 3, 32, 32), np.float32)
    (folder / "noise.bin").write_bytes(noise.tobytes())
    browser = Chromium(tmp_path / "profile", webgpu=True)
    try:
        browser.go(address)
        answer = browser.value(DRAW)
    finally:
        browser.close()
    assert answer != "no adapter", "this Chromium has no SwiftShader for WebGPU"
    found = np.frombuffer(base64.b64decode(answer), np.float32).reshape(noise.shape)
    with TorchRunner(resolve(model, request)) as reference:
        wanted = reference({"noise": noise, "label": np.array([3])})["image"]
    error = float(np.mean((found.astype(np.float64) - wanted) ** 2))
    assert 10 * np.log10(4 / error) > 100
