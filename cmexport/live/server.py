"""HTTP for the live page: files of a site, to this machine alone."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from cmexport.live.site import Site
from cmexport.serving import INDEX, PageHandler, PageServer, RefusedError, content_type

HOST = "127.0.0.1"


class LiveServer(PageServer):
    """Serves a site on loopback, where browsers trust plain http and give threads, WebGPU and a service worker.

    Raises:
        BackendError: the port can't be listened on.
    """

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        super().__init__(HOST, port, _Handler)

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{HOST}:{self.port}/"


class _Handler(PageHandler):
    server: LiveServer

    def do_GET(self) -> None:  # noqa: N802 - named by http.server
        path = unquote(urlsplit(self.path).path).removeprefix("/") or INDEX
        file = self.server.site.files.get(path)
        try:
            if not self._from_here():
                raise RefusedError(403, "This page is served to this machine only.")
            if file is None:
                raise RefusedError(404, "There is no such file.")
            self.send_file(file, content_type(path))
        except RefusedError as refused:
            self.send_text(refused.status, str(refused))

    def _from_here(self) -> bool:
        """Whether it was asked for by this machine's own name: a foreign page may have pointed its own here."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        return host in (HOST, "localhost")
