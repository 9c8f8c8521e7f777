"""The kit and its live page in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.chromium import Chromium

from .conftest import needs_browser, needs_library, served, wait_for

pytestmark = [needs_library, needs_browser]

READY = 'document.body.dataset.state === "ready"'
# Of everything that is read by ear: what has no name.
NAMELESS = """
[...document.querySelectorAll("button, input, select, summary, canvas[role], canvas[tabindex], progress")]
  .filter((e) => e.checkVisibility() && !(e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent.trim()))
  .map((e) => e.outerHTML)
"""
LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: "longtask", buffered: true });
"""


@pytest.fixture(scope="module")
def worded_page(kit: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The page of the emoji model, ready."""
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    try:
        with served(kit("worded")) as server:
            chromium.ask("Page.addScriptToEvaluateOnNewDocument", source=LONG_TASKS)
            chromium.go(server.address)
            wait_for(chromium, READY)
            yield chromium
    finally:
        chromium.close()


def _press(browser: Chromium, key: str, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        code = {"Tab": 9, " ": 32, "ArrowRight": 39, "Enter": 13}.get(key, 0)
        said = {"text": text} if text and kind == "keyDown" else {}
        browser.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **said)


def _until(browser: Chromium, name: str) -> None:
    wait_for(browser, f'document.querySelector("#picture").dataset.shown === {json.dumps(name)}')


def _picture(browser: Chromium) -> str:
    """Hash of what the large canvas shows."""
    return hashlib.sha256(
        base64.b64decode(browser.value('document.querySelector("#picture").toDataURL()').split(",")[1])
    ).hexdigest()


def test_the_kit_draws_the_stored_pictures_and_cancels(kit: Callable[[str], Path], browser: Chromium) -> None:
    folder = kit("demo")
    with served(folder) as server:
        browser.go(f"{server.address}kit.json")
        found = browser.value(
            """(async () => {
              const { Generator } = await import("/src/index.mjs");
              const golden = await (await fetch("/golden/golden.json")).json();
              const generator = await Generator.load({ threads: 2 });
              const off = [];
              for (const { seed, label, expected } of golden.pictures) {
                const { data } = await generator.generate({ seed: BigInt(seed), label });
                const stored = new Uint8Array(await (await fetch(`/golden/${expected}`)).arrayBuffer());
                off.push(...stored.map((byte, i) => Math.abs(byte - data[4 * Math.floor(i / 3) + (i % 3)])));
              }
              const abort = new AbortController();
              const drawing = generator.generate({ seed: 0, label: 0, signal: abort.signal });
              setTimeout(() => abort.abort(), 5);
              const end = await drawing.then(() => "drawn", ({ kind }) => kind);
              const { data } = await generator.generate({ seed: 0, label: 0 });
              const { pictures } = await generator.selfTest();
              const kept = (await (await caches.open("cmexport-kit")).keys()).map(({ url }) => url.split("/").at(-1));
              const { threads, backend, remark } = generator;
              generator.close();
              return { off: off.filter((o) => o > 0), bytes: off.length, end, after: data.length, pictures, kept,
                       threads, backend, remark };
            })()"""
        )
    assert found["off"] == [1] * len(found["off"])
    assert len(found["off"]) <= 1e-4 * found["bytes"]
    assert (found["end"], found["after"], found["pictures"]) == ("cancelled", 4096, 4)
    assert (found["threads"], found["backend"], found["remark"]) == (2, "wasm", None)
    # Kept under its hash: a second visit asks the server for no model.
    assert found["kept"] == [file["sha256"] for file in json.loads((folder / "kit.json").read_text())["files"]]


@pytest.mark.parametrize(
    ("device", "remark"), [("auto", "this browser's WebGPU is software"), ("webgpu", "WebGPU is not used: ")]
)
def test_a_gpu_that_is_not_right_is_not_used(
    kit: Callable[[str], Path], tmp_path: Path, device: str, remark: str
) -> None:
    """The software adapter has no float16, and drew black pictures in another build without an error."""
    browser = Chromium(tmp_path / "profile", webgpu=True)
    try:
        with served(kit("worded")) as server:
            browser.go(f"{server.address}kit.json")
            found = browser.value(
                f"""(async () => {{
                  const {{ Generator }} = await import("/src/index.mjs");
                  const generator = await Generator.load({{ device: "{device}" }});
                  const {{ worstDb }} = await generator.selfTest();
                  return [generator.backend, generator.remark, worstDb];
                }})()"""
            )
    finally:
        browser.close()
    assert found[0] == "wasm"
    assert found[1].startswith(remark)
    assert found[2] is None or found[2] > 50  # JSON has no infinity


def test_typing_draws_at_once_and_the_last_words_win(worded_page: Chromium) -> None:
    worded_page.value('document.querySelector("#text").select()')
    worded_page.value('document.querySelector("#text").focus()')
    before = _picture(worded_page)
    for letter in "green car":
        _press(worded_page, letter, letter)
    _until(worded_page, "green car, seed 0")
    car = _picture(worded_page)
    assert car != before
    assert worded_page.value('document.querySelector("#picture").getAttribute("aria-label")') == "green car, seed 0"
    worded_page.value('document.querySelectorAll("#suggestions button")[0].click()')
    _until(worded_page, "crying cat, seed 0")
    assert _picture(worded_page) == before
    # Ten seeds in one go: the first is being drawn, of those that come meanwhile only the last.
    worded_page.value(
        """(() => {
          window.shown = [];
          new MutationObserver(() => shown.push(document.querySelector("#picture").dataset.shown))
            .observe(document.querySelector("#picture"), { attributeFilter: ["data-shown"] });
          const seed = document.querySelector("#seed");
          for (let i = 1; i <= 10; i++) { seed.value = i; seed.dispatchEvent(new Event("input")); }
        })()"""
    )
    _until(worded_page, "crying cat, seed 10")
    assert worded_page.value("shown") == ["crying cat, seed 1", "crying cat, seed 10"]


def test_the_facts_beside_the_picture(worded_page: Chromium, kit: Callable[[str], Path]) -> None:
    facts = json.loads((kit("worded") / "kit.json").read_text())
    size = sum(file["bytes"] for file in facts["files"])
    assert worded_page.value('document.querySelector("#size").textContent') == f"{size / 1e6:.1f} MB"
    assert worded_page.value('document.querySelector("#backend").textContent').startswith("WebAssembly, ")
    assert worded_page.value('/^[0-9.]+ m?s$/.test(document.querySelector("#time").textContent)')
    assert "energy" not in worded_page.value("document.body.innerText").lower()


def test_between_two_seeds(worded_page: Chromium) -> None:
    worded_page.value('document.querySelector("#between").open = true')
    filled = '[...document.querySelectorAll("#strip canvas")].every((canvas) => canvas.width > 1)'
    wait_for(worded_page, filled)
    hashes = worded_page.value('[...document.querySelectorAll("#strip canvas")].map((canvas) => canvas.toDataURL())')
    assert len(set(hashes)) == 7
    worded_page.value('document.querySelectorAll("#strip button")[3].click()')
    wait_for(worded_page, 'document.querySelector("#picture").dataset.shown.includes("50 %")')
    assert worded_page.value('document.querySelector("#picture").toDataURL()') == hashes[3]
    worded_page.value('document.querySelector("#between").open = false')


def test_nothing_without_a_name_and_all_by_keyboard(worded_page: Chromium) -> None:
    assert worded_page.value(NAMELESS) == []
    worded_page.value("document.activeElement.blur(); document.body.focus()")
    reached = []
    for _ in range(30):
        _press(worded_page, "Tab")
        reached.append(worded_page.value("document.activeElement.id || document.activeElement.textContent.trim()"))
    for wanted in ("text", "crying cat", "seed", "random", "Between two seeds", "save"):
        assert wanted in reached, reached


def test_the_pages_thread_is_free(worded_page: Chromium, record_property: Callable[[str, object], None]) -> None:
    """Whatever draws, draws in the worker: the page is never busy for half as long as a picture takes."""
    worded_page.value("longTasks.length = 0")
    ms = worded_page.value(
        """new Promise((resolve) => {
          const canvas = document.querySelector("#picture"), start = performance.now();
          const seen = new MutationObserver(() => { seen.disconnect(); resolve(performance.now() - start); });
          seen.observe(canvas, { attributeFilter: ["data-shown"] });
          const seed = document.querySelector("#seed");
          seed.value = 20;
          seed.dispatchEvent(new Event("input"));
        })"""
    )
    longest = worded_page.value("new Promise((done) => setTimeout(() => done(Math.max(0, ...longTasks)), 100))")
    record_property("longest_task_ms", longest)
    assert longest < ms / 2


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_widths_and_schemes(worded_page: Chromium, width: int, dark: bool) -> None:
    worded_page.ask(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    worded_page.ask("Emulation.setEmulatedMedia", media="screen", features=[scheme])
    assert worded_page.value("document.documentElement.scrollWidth") <= width
    box = worded_page.value(
        '(({ width, height }) => [width, height])(document.querySelector("#frame").getBoundingClientRect())'
    )
    assert box[0] == pytest.approx(box[1], abs=1)
    assert box[0] > 0.4 * width
    ground, ink = worded_page.value(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    bright = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
    assert (bright[0] < bright[1]) is dark


def test_it_works_without_its_server(kit: Callable[[str], Path], browser: Chromium) -> None:
    with served(kit("demo")) as server:
        address = server.address
        browser.go(address)
        wait_for(browser, READY)
        before = _picture(browser)
    browser.events.clear()
    browser.go(address)
    wait_for(browser, READY)
    assert _picture(browser) == before
    assert browser.value("crossOriginIsolated")


def test_a_hole_is_painted_by_keyboard_and_the_rest_is_kept(kit: Callable[[str], Path], browser: Chromium) -> None:
    pixels = 'document.querySelector("#picture").getContext("2d").getImageData(0, 0, 32, 32).data'
    with served(kit("editing")) as server:
        browser.go(server.address)
        wait_for(browser, READY)
        browser.value(f"window.photo = {pixels}")
        browser.value('document.querySelectorAll("#modes input")[1].click()')
        _until(browser, "airplane, seed 0, edited")
        assert browser.value(f"{pixels}.every((byte, i) => byte === photo[i])"), "without a hole nothing changes"
        browser.value('document.querySelector("#hole").focus()')
        _press(browser, "ArrowRight")
        _press(browser, " ")
        wait_for(browser, f"{pixels}.some((byte, i) => byte !== photo[i])")
        changed = browser.value(
            f"""[...{pixels}].flatMap((byte, i) =>
              byte !== photo[i] ? [[Math.floor(i / 4) % 32, Math.floor(i / 128)]] : [])"""
        )
        assert changed
        # The brush's radius is two pixels here, and it was moved one to the right of the middle.
        assert all((x - 17) ** 2 + (y - 16) ** 2 <= 4 for x, y in changed)
        assert browser.value(NAMELESS) == []


def test_steps_are_offered_where_there_are_several(
    kit: Callable[[str], Path], browser: Chromium, tmp_path: Path
) -> None:
    folder = tmp_path / "kits"
    shutil.copytree(kit("demo"), folder, symlinks=True)
    shutil.copytree(kit("demo"), folder / "1", ignore=shutil.ignore_patterns("node_modules"))
    index = folder / "1/src/index.mjs"
    assert index.read_text().count('"steps": 1,') == 1
    index.write_text(index.read_text().replace('"steps": 1,', '"steps": 2,'))
    (folder / "models.json").write_text('["./", "./1/"]')
    with served(folder) as server:
        browser.go(server.address)
        wait_for(browser, READY)
        before = _picture(browser)
        assert browser.value('[...document.querySelectorAll("#steps label")].map((e) => e.textContent)') == ["1", "2"]
        browser.value('document.querySelectorAll("#steps input")[1].click()')
        wait_for(browser, f"!({READY})")
        wait_for(browser, READY)
        assert _picture(browser) == before
        fetched = browser.value('performance.getEntriesByType("resource").map((e) => new URL(e.name).pathname)')
        assert "/1/src/index.mjs" in fetched


def test_a_photo_is_cropped_to_its_middle(kit: Callable[[str], Path], browser: Chromium) -> None:
    with served(kit("editing")) as server:
        browser.go(server.address)
        wait_for(browser, READY)
        browser.value('document.querySelectorAll("#modes input")[1].click()')
        _until(browser, "airplane, seed 0, edited")
        # Red on the left, green in the middle square, blue on the right.
        browser.value(
            """(async () => {
              const canvas = new OffscreenCanvas(192, 64), context = canvas.getContext("2d");
              ["red", "lime", "blue"].forEach((colour, i) => {
                context.fillStyle = colour;
                context.fillRect(64 * i, 0, 64, 64);
              });
              const files = new DataTransfer();
              files.items.add(new File([await canvas.convertToBlob()], "photo.png", { type: "image/png" }));
              const photo = document.querySelector("#photo");
              photo.files = files.files;
              photo.dispatchEvent(new Event("change"));
            })()"""
        )
        middle = 'document.querySelector("#picture").getContext("2d").getImageData(2, 2, 28, 28).data'
        wait_for(browser, f"[...{middle}].every((byte, i) => byte === [0, 255, 0, 255][i % 4])")


def test_a_model_that_fails_says_so(kit: Callable[[str], Path], browser: Chromium, tmp_path: Path) -> None:
    copied = tmp_path / "kit"
    shutil.copytree(kit("demo"), copied)
    (copied / "model/model.onnx").unlink()
    with served(copied) as server:
        browser.go(server.address)
        wait_for(browser, 'document.body.dataset.state === "failed"')
        said = browser.value('document.querySelector("[role=status]").textContent')
    assert "model.onnx: the server answers 404" in said
