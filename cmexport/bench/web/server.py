"""HTTP for one visit: the page and the files of its jobs out, result lines in. Nothing else is served.

Addresses lie below `/TOKEN/`:

    GET  ''                     the page (until the link is used), and its own files by name
    POST claim                  use the link up; the key for everything below
    GET  jobs/I/job.json, ...   a job's files
    POST jobs/I/lines           result lines (bench_device/README.md)
    POST jobs/I/skip            the browser lacks what an optional job needs
    POST jobs/I/hidden          the page is out of sight while the job runs
    GET  jobs/I/verdict         parity, once the record is made
    POST leave                  the page is being closed
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cmexport.bench.lines import Line, LineError, OutputLine, parse_line
from cmexport.bench.web.pages import INDEX, Page, content_type
from cmexport.bench.web.session import MAX_POST_BYTES, RefusedError, Session
from cmexport.errors import BackendError

HEADERS = {
    # Both together isolate the page: without that no browser gives WebAssembly threads, nor timers finer than 0.1 ms.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page can't reach anything but this server, whatever its code or onnxruntime-web tries.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
VERDICT_WAIT_S = 120.0
_SOCKET_TIMEOUT_S = 60.0
_BLOCK = 1 << 18
_JOB = re.compile(r"jobs/(\d{1,4})/(.+)")


class BenchServer(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers. `session` may be exchanged for the next visit's.

    Raises:
        BackendError: the address can't be listened on.
    """

    daemon_threads = True
    # Leaving doesn't wait for a phone that is still downloading.
    block_on_close = False

    def __init__(self, host: str, port: int, page: Page, session: Session, tls: ssl.SSLContext | None = None) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.page = page
        self.session = session
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or error
            raise BackendError(f"{host} port {port}: can't listen there: {said}; choose others") from error
        if tls is not None:
            # The handshake is left to the visitor's own thread: here a silent one would stop all others.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report no visitor who hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: BenchServer
    protocol_version = "HTTP/1.1"
    server_version = "cmexport"
    sys_version = ""
    timeout = _SOCKET_TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:  # the address of a request holds the token
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the base class finds wrong: a method without a `do_`, or a line that is not HTTP."""
        del explain
        self.close_connection = True
        if code == 501:
            allow = {"Allow": "GET, POST"}
            self._send(405, b"This server answers GET and POST.\n", "text/plain; charset=utf-8", allow)
        else:
            self._send(code, f"{message or 'bad request'}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, handle: Callable[[str], None]) -> None:
        try:
            self._unread = int(self.headers.get("Content-Length") or 0) > 0
        except ValueError:
            self._unread = True
        self._unread = self._unread or "Transfer-Encoding" in self.headers
        try:
            handle(self._path())
        except RefusedError as refused:
            # What was not read of the request would be taken for the next one.
            self.close_connection = self.close_connection or self._unread
            extra = {"Allow": _ALLOWED[handle.__name__]} if refused.status == 405 else {}
            self._send(refused.status, f"{refused}\n".encode(), "text/plain; charset=utf-8", extra)

    def _path(self) -> str:
        """Return the path below the token.

        Raises:
            RefusedError: another token, or none.
        """
        whole = unquote(urlsplit(self.path).path)
        token, slash, rest = whole.removeprefix("/").partition("/")
        if not self.server.session.has_token(token):
            raise RefusedError(403, "This link is not valid (any more). Open the one that cmexport bench shows.")
        if not slash:
            raise RefusedError(404, "The link ends in a slash.")
        return rest

    def _get(self, path: str) -> None:
        session = self.server.session
        if path in ("", INDEX):
            if session.claimed:
                raise RefusedError(
                    403, "This link was used already: it is good for one visit. Start cmexport bench again."
                )
            path = INDEX
        if path in self.server.page.files:
            self._send_file(self.server.page.files[path], content_type(path))
            return
        if path in _POSTS:
            raise RefusedError(405, "This address takes POST.")
        index, rest = self._job(path)
        if rest in _JOB_POSTS:
            raise RefusedError(405, "This address takes POST.")
        session.check_key(self.headers.get("Authorization"))
        if rest == "verdict":
            self._send(200, json.dumps(session.verdict(index, VERDICT_WAIT_S)).encode(), "application/json")
            session.shown(index)
        elif rest in session.jobs[index].files:
            self._send_file(session.jobs[index].files[rest].content, content_type(rest))
        else:
            raise RefusedError(404, "There is no such file.")

    def _post(self, path: str) -> None:
        session = self.server.session
        if path in ("", INDEX, *self.server.page.files):
            raise RefusedError(405, "This address takes GET.")
        if path == "claim":
            self._body()
            self._send(200, json.dumps(session.claim()).encode(), "application/json")
            return
        if path != "leave":
            index, rest = self._job(path)
            if rest not in _JOB_POSTS:
                known = rest == "verdict" or rest in session.jobs[index].files
                raise (
                    RefusedError(405, "This address takes GET.")
                    if known
                    else RefusedError(404, "There is no such file.")
                )
        session.check_key(self.headers.get("Authorization"))
        body = self._body()
        if path == "leave":
            session.leave("the page was closed")
        elif rest == "skip":
            session.skip(index)
        elif rest == "hidden":
            session.hidden(index)
        else:
            session.deliver(index, _lines(body), len(body))
        self._send(204, b"", "text/plain; charset=utf-8")

    def _job(self, path: str) -> tuple[int, str]:
        found = _JOB.fullmatch(path)
        if found is None or int(found[1]) >= len(self.server.session.jobs):
            raise RefusedError(404, "There is no such file.")
        return int(found[1]), found[2]

    def _body(self) -> bytes:
        """Read the request's body; refused before it is read when it is too long or does not say how long it is."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,19}", length) or "Transfer-Encoding" in self.headers:
            raise RefusedError(411, "A post says its length.")
        if int(length) > MAX_POST_BYTES:
            raise RefusedError(413, f"A post holds at most {MAX_POST_BYTES / 1e6:.0f} MB.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise RefusedError(400, "The post was cut off.")
        self._unread = False
        return body

    def _send_file(self, content: bytes | Path, kind: str) -> None:
        if isinstance(content, bytes):
            self._send(200, content, kind)
            return
        try:
            size, file = content.stat().st_size, content.open("rb")
        except OSError as error:
            raise RefusedError(500, f"{content.name} can't be read: {error.strerror}.") from error
        with file:
            self._head(200, size, kind)
            while block := file.read(_BLOCK):
                self.wfile.write(block)
                self.server.session.active()

    def _send(self, status: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        self._head(status, len(body), kind, extra)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(extra or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


_POSTS = ("claim", "leave")
_JOB_POSTS = ("lines", "skip", "hidden")
_ALLOWED = {"_get": "POST", "_post": "GET"}


def _lines(body: bytes) -> list[Line]:
    """Check the lines of a post, all of them; kinds that this version does not know are dropped.

    Raises:
        RefusedError: one isn't a line of the contract.
    """
    found = []
    try:
        for text in body.split(b"\n"):
            line = parse_line(text)
            if isinstance(line, OutputLine):
                _ = line.array  # raises where the data doesn't fit the shape
            if line is not None:
                found.append(line)
    except LineError as error:
        raise RefusedError(400, str(error)) from error
    return found
