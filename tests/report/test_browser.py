"""The page in a real browser: nothing to scroll sideways, nothing on the console, nothing asked of a network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.chromium import CHROMIUM, Chromium

from cmexport.cli.main import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(build) -> Path:
    long = "a_name_without_a_break_" * 6
    for name in ("toy-onnx-fp32", long):
        build.artifact(name)
        build.record(name, ms=tuple(float(v) for v in range(10, 40)), watts=5.0, minutes=(1.0, 1.2), model="Pixel 8")
    build.record("failed", kept=False, ms=(), failure={"stage": "load", "message": long * 2})
    out = build.folder / "report.html"
    assert main(["report", str(build.folder), "-o", str(out)]) == 0
    return out


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_is_silent_and_asks_for_nothing(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("innerWidth") == width
    for method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded"):
        assert browser.said(method) == []
    asked = [r["request"]["url"] for r in browser.said("Network.requestWillBeSent")]
    assert [address for address in asked if not address.startswith("data:")] == [page.as_uri()]
    shown = browser.value("[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).length")
    assert shown == browser.value("document.querySelectorAll('svg').length") / 2
    # No text of a chart below 11 px, and none beyond its drawing.
    assert browser.value(
        "[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).every(s => "
        "s.getBoundingClientRect().width >= s.viewBox.baseVal.width - 1 && [...s.querySelectorAll('text')].every(t => "
        "t.getBoundingClientRect().right <= s.getBoundingClientRect().right + 2))"
    )
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot(width, 300))).convert("L"))
    assert (np.median(pixels) < 60) == dark


def test_a_page_that_would_ask_is_noticed(browser: Chromium, page: Path) -> None:
    """The checks above can fail: a picture from elsewhere is refused by the policy, and reported."""
    page.write_text(
        page.read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><div style="width:2000px">')
    )
    browser.open(page, 390)
    assert browser.said("Log.entryAdded") or browser.said("Audits.issueAdded")
