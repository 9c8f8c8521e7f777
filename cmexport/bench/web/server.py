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
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cmexport.bench.lines import Line, LineError, OutputLine, parse_line
from cmexport.bench.web.pages import Page
from cmexport.bench.web.session import MAX_POST_BYTES, Session
from cmexport.serving import INDEX, PageHandler, PageServer, RefusedError, content_type

VERDICT_WAIT_S = 120.0
_JOB = re.compile(r"jobs/(\d{1,4})/(.+)")


class BenchServer(PageServer):
    """Serves one visit; `session` may be exchanged for the next visit's.

    Raises:
        BackendError: the address can't be listened on.
    """

    def __init__(self, host: str, port: int, page: Page, session: Session, tls: ssl.SSLContext | None = None) -> None:
        self.page = page
        self.session = session
        super().__init__(host, port, _Handler)
        if tls is not None:
            # The handshake is left to the visitor's own thread: here a silent one would stop all others.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class _Handler(PageHandler):
    server: BenchServer

    def do_GET(self) -> None:  # noqa: N802 - named by http.server
        self._answer(self._get)

    def do_POST(self) -> None:  # noqa: N802 - named by http.server
        self._answer(self._post)

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
            self.send_text(refused.status, str(refused), extra)

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
            self.send_file(self.server.page.files[path], content_type(path))
            return
        if path in _POSTS:
            raise RefusedError(405, "This address takes POST.")
        index, rest = self._job(path)
        if rest in _JOB_POSTS:
            raise RefusedError(405, "This address takes POST.")
        session.check_key(self.headers.get("Authorization"))
        if rest == "verdict":
            self.send_bytes(200, json.dumps(session.verdict(index, VERDICT_WAIT_S)).encode(), "application/json")
            session.shown(index)
        elif rest in session.jobs[index].files:
            self._send_content(session.jobs[index].files[rest].content, content_type(rest))
        else:
            raise RefusedError(404, "There is no such file.")

    def _post(self, path: str) -> None:
        session = self.server.session
        if path in ("", INDEX, *self.server.page.files):
            raise RefusedError(405, "This address takes GET.")
        if path == "claim":
            self._body()
            self.send_bytes(200, json.dumps(session.claim()).encode(), "application/json")
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
        self.send_bytes(204, b"", "text/plain; charset=utf-8")

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

    def _send_content(self, content: bytes | Path, kind: str) -> None:
        if isinstance(content, bytes):
            self.send_bytes(200, content, kind)
        else:
            self.send_file(content, kind)

    def sent_block(self) -> None:
        """Keep the visit alive while a large model goes out."""
        self.server.session.active()


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
