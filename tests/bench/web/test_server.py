"""The server behind the page, asked by hand: what it gives, and everything that it must refuse."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmexport.bench.on_device import device_files
from cmexport.bench.web.certificate import server_context
from cmexport.bench.web.pages import Page
from cmexport.bench.web.server import BenchServer
from cmexport.bench.web.session import MAX_POST_BYTES, Gone, ServedFile, ServedJob, Session, Skipped
from cmexport.errors import BackendError

META = b'{"kind": "meta", "contract": 1, "runner": "test", "runtime": "none"}\n'
DONE = b'{"kind": "done"}\n'


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """The real page's own files; the vendored library is replaced, so that the tests need no download."""
    own = {p.name: p for p in device_files("web").glob("*") if p.suffix in (".html", ".css", ".mjs")}
    library = tmp_path / "library.wasm"
    library.write_bytes(b"\0asm")
    return Page({**own, "vendor/library.wasm": library})


@dataclass
class Visitor:
    """A client that says exactly what it is told."""

    server: BenchServer
    key: str = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, token: str | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        try:
            where = f"/{self.server.session.token if token is None else token}/{path}"
            connection.request(method, where, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def claim(self) -> dict[str, object]:
        status, body, _ = self.ask("POST", "claim", b"")
        assert status == 200
        found: dict[str, object] = json.loads(body)
        self.key = str(found["key"])
        return found


@pytest.fixture
def session(tmp_path: Path) -> Session:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"weights" * 1000)
    files = {
        "job.json": ServedFile(b"{}"),
        "model/model.onnx": ServedFile(model),
        "inputs/0.noise.bin": ServedFile(b"x"),
    }
    return Session(
        [
            ServedJob("first", "fp32", "wasm", False, files, ("model/model.onnx",)),
            ServedJob("first", "fp32", "webgpu", True, files, ("model/model.onnx",)),
        ]
    )


@pytest.fixture
def visitor(page: Page, session: Session) -> Iterator[Visitor]:
    server = BenchServer("127.0.0.1", 0, page, session)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield Visitor(server)
    server.shutdown()
    server.server_close()
    thread.join()


def test_page_and_its_files_are_isolated(visitor: Visitor) -> None:
    for path, kind in (("", "text/html"), ("app.mjs", "text/javascript"), ("vendor/library.wasm", "application/wasm")):
        status, body, headers = visitor.ask("GET", path)
        assert status == 200
        assert body
        assert headers["Content-Type"].startswith(kind)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_everything_that_the_page_names_is_served(visitor: Visitor, page: Page) -> None:
    for name, path in page.files.items():
        if path.suffix in (".html", ".mjs"):
            text = path.read_text()
            # Nothing from elsewhere: it works without the internet. (The SVG namespace is a name, not an address.)
            assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], name
            for imported in re.findall(r"from \"\./([\w.]+)\"|(?:src|href)=\"([\w.]+)\"", text):
                assert next(filter(None, imported)) in page.files


def test_the_link_is_good_for_one_visit(visitor: Visitor, session: Session) -> None:
    assert visitor.ask("GET", "")[0] == 200
    assert visitor.ask("GET", "")[0] == 200  # a link preview does not use it up
    assert not session.claimed
    found = visitor.claim()
    assert [job["provider"] for job in found["jobs"]] == ["wasm", "webgpu"]  # type: ignore[index, attr-defined]
    assert session.claimed
    status, body, _ = visitor.ask("POST", "claim", b"")
    assert status == 403
    assert b"used already" in body
    assert visitor.ask("GET", "")[0] == 403


@pytest.mark.parametrize("token", ["", "wrong", "A" * 22, "%2e%2e", "..", "é", b"\x00".hex()])
def test_another_token_opens_nothing(visitor: Visitor, token: str) -> None:
    for method, path in (("GET", ""), ("GET", "app.mjs"), ("POST", "claim"), ("GET", "jobs/0/job.json")):
        body = b"" if method == "POST" else None
        assert visitor.ask(method, path, body, token=token.encode("ascii", "ignore").decode())[0] == 403
    assert not visitor.server.session.claimed


def test_artefacts_need_the_key(visitor: Visitor) -> None:
    assert visitor.ask("GET", "jobs/0/model/model.onnx")[0] == 403
    assert visitor.ask("GET", "jobs/0/model/model.onnx", Authorization="Bearer ")[0] == 403
    visitor.claim()
    right = visitor.key
    assert visitor.ask("GET", "jobs/0/model/model.onnx")[:2] == (200, b"weights" * 1000)
    assert visitor.ask("GET", "jobs/1/inputs/0.noise.bin")[:2] == (200, b"x")
    for wrong in ("", right[:-1], right + "x", "Basic " + right):
        assert visitor.ask("GET", "jobs/0/job.json", Authorization=f"Bearer {wrong}")[0] == 403
        assert visitor.ask("POST", "jobs/0/lines", META, Authorization=f"Bearer {wrong}")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "vendor/../../../etc/passwd",
        "/etc/passwd",
        "jobs/0/../../../../etc/passwd",
        "jobs/0/model/../../../../../etc/passwd",
        "jobs/0/%2fetc%2fpasswd",
        "jobs/2/job.json",
        "jobs/-1/job.json",
        "jobs/00000/job.json",
        "fetch.py",
        "vendor.json",
        ".gitignore",
        "jobs/0/manifest.json",
        "jobs/0/model/model.onnx%00.txt",
        "favicon.ico",
    ],
)
def test_nothing_outside_the_lists(visitor: Visitor, path: str) -> None:
    visitor.claim()
    status, body, _ = visitor.ask("GET", path)
    assert status == 404
    assert b"root:" not in body
    assert visitor.ask("POST", path, b"")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_other_methods(visitor: Visitor, method: str) -> None:
    status, _, headers = visitor.ask(method, "")
    assert status == 405
    assert headers["Allow"] == "GET, POST"


def test_right_address_wrong_method(visitor: Visitor) -> None:
    visitor.claim()
    for method, path in (
        ("GET", "claim"),
        ("GET", "leave"),
        ("GET", "jobs/0/lines"),
        ("POST", "app.mjs"),
        ("POST", "jobs/0/job.json"),
        ("POST", "jobs/0/verdict"),
    ):
        status, _, headers = visitor.ask(method, path, b"" if method == "POST" else None)
        assert status == 405, path
        assert headers["Allow"] == ("POST" if method == "GET" else "GET")


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"{",
        b"[]",
        b"{}",
        b'{"kind": 1}',
        b'{"kind": "meta"}',
        b'{"kind": "load", "ms": NaN, "cold": true}',
        b'{"kind": "load", "ms": -1, "cold": true}',
        b'{"kind": "load", "ms": "1", "cold": true}',
        b'{"kind": "samples", "repeat": 0, "round": 0, "ms": [], "start_s": 0, "end_s": 1}',
        b'{"kind": "output", "run": 0, "name": "image", "dtype": "float32", "shape": [1], "data": "AAAA"}',
        b'{"kind": "output", "run": 0, "name": "image", "dtype": "object", "shape": [1], "data": "AAAA"}',
        b"\xff\xfe",
        b"[" * 100_000,
        META + b"hello\n",
        DONE + META,
    ],
)
def test_malformed_posts_are_refused_whole(visitor: Visitor, session: Session, body: bytes) -> None:
    visitor.claim()
    assert visitor.ask("POST", "jobs/0/lines", body)[0] == 400
    if not body.startswith(DONE):
        # The good line before the bad one was not taken either.
        session.leave("test")
        assert [type(item) for item in session.lines(0)] == [Gone]


def test_huge_posts_are_refused_unread(visitor: Visitor) -> None:
    visitor.claim()
    with socket.create_connection(("127.0.0.1", visitor.server.port), timeout=20) as raw:
        token = visitor.server.session.token
        head = (
            f"POST /{token}/jobs/0/lines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {visitor.key}\r\n"
            f"Content-Length: {MAX_POST_BYTES + 1}\r\n\r\n"
        )
        raw.sendall(head.encode())
        answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in answer


@pytest.mark.parametrize("length", ["", "-1", "1e9", "abc", "99999999999999999999999"])
def test_posts_without_a_sane_length(visitor: Visitor, length: str) -> None:
    visitor.claim()
    with socket.create_connection(("127.0.0.1", visitor.server.port), timeout=20) as raw:
        token = visitor.server.session.token
        line = f"Content-Length: {length}\r\n" if length else "Transfer-Encoding: chunked\r\n"
        raw.sendall(
            f"POST /{token}/jobs/0/lines HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {visitor.key}\r\n{line}\r\n".encode()
        )
        assert raw.recv(65536).startswith(b"HTTP/1.1 411 ")


def test_not_http(visitor: Visitor) -> None:
    with socket.create_connection(("127.0.0.1", visitor.server.port), timeout=20) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense nonsense nonsense\r\n\r\n")
        assert b"Bad request" in raw.recv(65536)
    assert visitor.ask("GET", "")[0] == 200  # and it goes on


def test_lines_arrive_in_order_and_end(visitor: Visitor, session: Session) -> None:
    visitor.claim()
    assert visitor.ask("POST", "jobs/0/lines", META + b'{"kind": "later", "x": 1}\n\n')[0] == 204
    assert visitor.ask("POST", "jobs/0/lines", b'{"kind": "first", "ms": 1.5}\n' + DONE)[0] == 204
    assert [item.kind for item in session.lines(0)] == ["meta", "first", "done"]  # type: ignore[union-attr]
    assert visitor.ask("POST", "jobs/0/lines", META)[0] == 409


def test_only_optional_jobs_are_skipped(visitor: Visitor, session: Session) -> None:
    visitor.claim()
    assert visitor.ask("POST", "jobs/0/skip", b"")[0] == 409
    assert visitor.ask("POST", "jobs/1/skip", b"")[0] == 204
    assert [type(item) for item in session.lines(1)] == [Skipped]


def test_leaving_ends_what_has_not_ended(visitor: Visitor, session: Session) -> None:
    visitor.claim()
    visitor.ask("POST", "jobs/0/lines", META + DONE)
    assert visitor.ask("POST", "leave", b"")[0] == 204
    assert [getattr(item, "kind", "gone") for item in session.lines(0)] == ["meta", "done"]
    assert [getattr(item, "kind", "gone") for item in session.lines(1)] == ["gone"]


def test_a_silent_visitor_has_gone(session: Session) -> None:
    now = [0.0]
    silent = Session(session.jobs, clock=lambda: now[0])
    silent.claim()
    now[0] = 1000.0
    found = list(silent.lines(0, poll_s=0.01))
    assert len(found) == 1
    assert isinstance(found[0], Gone)
    assert "nothing for 180 s" in found[0].reason


def test_verdict_waits_for_the_record(visitor: Visitor, session: Session) -> None:
    visitor.claim()
    threading.Timer(0.2, session.judge, (0, {"parity": None})).start()
    assert visitor.ask("GET", "jobs/0/verdict")[:2] == (200, b'{"parity": null}')


def test_a_port_that_is_taken(visitor: Visitor, page: Page, session: Session) -> None:
    with pytest.raises(BackendError, match="can't listen there"):
        BenchServer("127.0.0.1", visitor.server.port, page, session)
    with pytest.raises(BackendError, match="can't listen there"):
        BenchServer("192.0.2.77", 0, page, session)


def test_https_with_its_own_certificate(page: Page, session: Session) -> None:
    context, fingerprint = server_context("127.0.0.1")
    server = BenchServer("127.0.0.1", 0, page, session, context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        # A visitor who says nothing must not keep the others out.
        with socket.create_connection(("127.0.0.1", server.port)):
            pem = ssl.get_server_certificate(("127.0.0.1", server.port), timeout=20)
            client = ssl.create_default_context(cadata=pem)
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=client, timeout=20)
            connection.request("GET", f"/{session.token}/")
            assert connection.getresponse().status == 200
            connection.close()
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
        assert fingerprint.replace(":", "") == digest
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
