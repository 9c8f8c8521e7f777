"""What is common to the pages that cmexport serves: isolation, content types, a server that is quiet and careful."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

from cmexport.errors import BackendError, CmexportError

INDEX = "index.html"
HEADERS = {
    # Both together isolate the page: without that no browser gives WebAssembly threads, nor timers finer than 0.1 ms.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page can't reach anything but this server, whatever its code or onnxruntime-web tries.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
_SOCKET_TIMEOUT_S = 60.0
_BLOCK = 1 << 18


def content_type(path: str) -> str:
    """Tell a file's content type by its ending; anything unknown is bytes."""
    return CONTENT_TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")


class RefusedError(CmexportError):
    """A request that is not served.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PageServer(ThreadingHTTPServer):
    """Listens from the moment it is made; `serve_forever` answers.

    Raises:
        BackendError: the address can't be listened on.
    """

    daemon_threads = True
    # Leaving doesn't wait for a phone that is still downloading.
    block_on_close = False

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or error
            raise BackendError(f"{host} port {port}: can't listen there: {said}; choose others") from error

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report no visitor who hangs up."""


class PageHandler(BaseHTTPRequestHandler):
    """Sends answers with `HEADERS`, tells nothing of itself and logs nothing."""

    protocol_version = "HTTP/1.1"
    server_version = "cmexport"
    sys_version = ""
    timeout = _SOCKET_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a request's address may hold a token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the base class finds wrong: a method without a `do_`, or a line that is not HTTP."""
        del explain
        self.close_connection = True
        if code == 501:
            self.send_text(
                405, f"This server answers {' and '.join(self._methods)}.", {"Allow": ", ".join(self._methods)}
            )
        else:
            self.send_text(code, message or "bad request")

    @property
    def _methods(self) -> list[str]:
        return [name for name in ("GET", "POST") if hasattr(self, f"do_{name}")]

    def send_text(self, status: int, text: str, extra: dict[str, str] | None = None) -> None:
        """Answer with a line of text."""
        self.send_bytes(status, f"{text}\n".encode(), "text/plain; charset=utf-8", extra)

    def send_bytes(self, status: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        """Answer with bytes of a content type."""
        self.send_head(status, len(body), kind, extra)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path, kind: str) -> None:
        """Answer with a file, in blocks.

        Raises:
            RefusedError: it can't be read.
        """
        try:
            size, file = path.stat().st_size, path.open("rb")
        except OSError as error:
            raise RefusedError(500, f"{path.name} can't be read: {error.strerror}.") from error
        with file:
            self.send_head(200, size, kind)
            while block := file.read(_BLOCK):
                self.wfile.write(block)
                self.sent_block()

    def sent_block(self) -> None:
        """Note that a visitor took a block of a file."""

    def send_head(self, status: int, length: int, kind: str, extra: dict[str, str] | None = None) -> None:
        """Begin an answer."""
        self.send_response(status)
        for name, value in {**HEADERS, **(extra or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
