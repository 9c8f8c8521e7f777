"""The page as one HTML file and as Markdown."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cmexport.errors import BackendError
from cmexport.report.view import Chart, Page

if TYPE_CHECKING:
    from jinja2 import Environment

WIDE_PX, NARROW_PX = 760, 330
"""Each chart is drawn twice and the style sheet shows one: 760 px scaled to a phone would give letters of 5 px."""


def render_html(page: Page) -> str:
    """One file: no scripts, no links to anything outside; a policy in the page forbids both.

    Raises:
        BackendError: jinja2 is missing.
    """
    css = _template("report.css")
    # The policy allows this very style sheet and nothing else that a hostile name might smuggle in.
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    environment = _environment(autoescape=True)
    template = environment.from_string(_template("report.html.j2"))
    return template.render(page=page, css=css, policy=policy, drawings=_drawings)


def render_markdown(page: Page, folder: Path) -> str:
    """Write the page's tables for a README; pictures are linked relative to `folder`, where the file will lie.

    Raises:
        BackendError: jinja2 is missing.
    """
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown

    def relative(path: str) -> str:
        return _address(os.path.relpath(Path(path).resolve(), folder.resolve()))

    return environment.from_string(_template("report.md.j2")).render(page=page, relative=relative)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also in a cell of a table: no markup, no HTML, no link."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", text.replace("\n", " "))


def _address(path: str) -> str:
    """Write a relative path inside ![](...)."""
    return re.sub(r"[^A-Za-z0-9._/-]", lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), path)


def _drawings(chart: Chart) -> list[tuple[str, str]]:
    return [("wide", chart.draw(WIDE_PX)), ("narrow", chart.draw(NARROW_PX))]


def _environment(*, autoescape: bool) -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise BackendError("reports are written with jinja2: pip install 'cmexport[report]'") from error
    return Environment(autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _template(name: str) -> str:
    return (resources.files("cmexport.report") / "templates" / name).read_text(encoding="utf-8")
