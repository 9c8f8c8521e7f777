"""What the live page is made of, and who may have it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmexport.errors import BackendError, UsageError
from cmexport.kits import Kit
from cmexport.live import LiveServer, Site
from cmexport.live import site as sites
from cmexport.live.site import make_site


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "page.mjs").write_text("1")
    (tmp_path / "secret").write_text("secret")
    files = {name: tmp_path / name for name in ("index.html", "page.mjs", "gone.bin")}
    server = LiveServer(Site(files, ()), 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _ask(server: LiveServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_files_of_the_site_and_nothing_else(server: LiveServer) -> None:
    status, body, headers = _ask(server, "/")
    assert (status, body) == (200, b"<p>page</p>")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    assert _ask(server, "/page.mjs?v=1")[2]["Content-Type"] == "text/javascript; charset=utf-8"
    for path in ("/secret", "/../secret", "/%2e%2e/secret", "/gone.bin/.."):
        assert _ask(server, path)[0] == 404, path
    status, body, _ = _ask(server, "/gone.bin")
    assert (status, body) == (500, b"gone.bin can't be read: No such file or directory.\n")
    assert _ask(server, "/", "POST")[0] == 405


@pytest.mark.parametrize(("host", "status"), [("localhost:1", 200), ("evil.example", 403), ("127.0.0.1.evil:80", 403)])
def test_only_by_this_machines_names(server: LiveServer, host: str, status: int) -> None:
    """A foreign page whose name was pointed at this machine could read everything otherwise."""
    assert _ask(server, "/", Host=host)[0] == status


def test_a_port_that_is_taken(server: LiveServer) -> None:
    with pytest.raises(BackendError, match="can't listen there"):
        LiveServer(server.site, server.port)


def test_without_onnxruntime_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vendor.json").write_text(json.dumps({"files": {"ort.wasm.min.mjs": ""}}))
    monkeypatch.setattr(sites, "device_files", lambda _: tmp_path)
    with pytest.raises(BackendError, match=r"onnxruntime-web is not there\nfetch it once: python .*fetch.py"):
        make_site([tmp_path / "artefact"], tmp_path / "site")


def _kit(name: str = "a", steps: int = 1, task: str = "generate") -> Kit:
    run = {"name": task, "task": task, "steps": steps, "patch": None, "graphs": (), "inputs": (), "least_db": 60.0}
    run |= {"output": {"name": "image", "dtype": "float32", "shape": (1, 3, 8, 8), "layout": "NCHW"}}
    return Kit.model_validate(
        {
            **dict.fromkeys(("license", "labels", "prompts", "tokenizer", "guidance")),
            **dict.fromkeys(("cmexport", "artifact", "target", "precision"), "x"),
            "name": name,
            "files": (),
            "runs": (run,),
        }
    )


def test_one_page_shows_one_model() -> None:
    first, second = Path("first"), Path("second")
    sites._check_together(first, [_kit()], second, _kit(steps=2))
    with pytest.raises(UsageError, match="second: is of another model or task than first"):
        sites._check_together(first, [_kit()], second, _kit("b", steps=2))
    with pytest.raises(UsageError, match="another model or task"):
        sites._check_together(first, [_kit()], second, _kit(steps=2, task="inpaint"))
    with pytest.raises(UsageError, match="second: takes 1 steps as another one does"):
        sites._check_together(first, [_kit()], second, _kit())
