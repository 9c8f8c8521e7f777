"""The web kit's README word for word: its commands in a fresh folder, its code in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.chromium import Chromium
from support.readme_code import blocks

from .conftest import needs_browser, needs_library, needs_node, served, wait_for

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: apt install npm")


@needs_npm
@needs_browser
def test_its_first_picture(kit: Callable[[str], Path], browser: Chromium, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    shutil.copytree(kit("demo"), folder, ignore=shutil.ignore_patterns("node_modules"))
    commands = blocks(folder / "README.md", "sh")[0]
    assert commands.splitlines()[-1] == "npm start"
    with _started(commands, folder) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line.startswith("http://"))
        browser.go(address.strip())
        wait_for(browser, 'document.body.dataset.state === "ready"')
        assert browser.value("crossOriginIsolated")
        # The server has nothing above its folder, and nothing hidden.
        statuses = browser.value(
            """Promise.all(["/.npmrc", "/%2e%2e/app/README.md", "/nothing", "/%"].map((path) =>
                 fetch(path).then(({ status }) => status)))"""
        )
        assert statuses == [404, 404, 404, 400]


def _started(commands: str, folder: Path) -> _Process:
    command = ["bash", "-euo", "pipefail", "-c", commands]
    return _Process(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)


class _Process(subprocess.Popen[str]):
    """Ends with its children."""

    def __exit__(self, *_: object) -> None:
        subprocess.run(["kill", "--", f"-{self.pid}"], check=False)
        self.wait(timeout=30)
        assert self.stdout is not None
        self.stdout.close()


@pytest.fixture(scope="module", params=["editing", "worded"])
def codes(request: pytest.FixtureRequest, kit: Callable[[str], Path]) -> tuple[Path, list[str]]:
    folder = kit(request.param)
    return folder, blocks(folder / "README.md", "js")


@needs_library
@needs_node
@needs_browser
def test_its_code(codes: tuple[Path, list[str]], browser: Chromium, tmp_path: Path) -> None:
    folder, found = codes
    assert len(found) >= 4
    copied = tmp_path / "kit"
    shutil.copytree(folder, copied, symlinks=True)
    for number, code in enumerate(found):
        (copied / f"block{number}.mjs").write_text(code)
    with served(copied) as server:
        browser.go(f"{server.address}kit.json")
        for number, code in enumerate(found):
            browser.value("document.body.replaceChildren(document.createElement('canvas'))")
            browser.value("Object.assign(document.querySelector('canvas'), { width: 32, height: 32 })")
            browser.value(f"import('/block{number}.mjs').then(() => true)")
            if "generator.draw" in code:
                drawn = browser.value(
                    """(() => { const c = document.querySelector("canvas");
                         return new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size; })()"""
                )
                assert drawn > 30, code
