"""The page and the Markdown, read by parsers that aren't ours."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from cmexport.report.battery import battery_asked
from cmexport.report.gathering import gather
from cmexport.report.material import prepare
from cmexport.report.page import build_page
from cmexport.report.rendering import render_html, render_markdown

HOSTILE = "<script>alert(1)</script>|`*_[x](javascript:alert(1))\u202e&amp;\"' onload=x"


class Reader(HTMLParser):
    """Elements, ids, tables by caption, and text, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.ids, self.tables, self._cells, self._cell, self._caption = [], [], {}, [], None, None
        self.style = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._cells = []
        if tag in ("td", "th", "caption", "style"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cells.append(self._cell.replace("\u202f", ""))
        if tag == "caption":
            self._caption = self._cell
        if tag == "style":
            self.style = self._cell
        if tag == "tr":
            self._rows.append(self._cells)
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th", "caption", "style"):
            self._cell = None


def page_of(paths, battery=None):
    return build_page(prepare(gather(paths), battery), "A title")


def read(paths, battery=None):
    return Reader(render_html(page_of(paths, battery)))


@pytest.fixture(scope="module")
def everything(builder, tmp_path_factory):
    """All sections: three numbers of steps, Heun, energy, minutes, a rejected artefact, scores, a failure."""
    tmp_path = tmp_path_factory.mktemp("everything")
    build = builder(tmp_path)
    ran = []
    for name, sigmas in (("k1", (80.0,)), ("k2", (80.0, 1.9)), ("k4", (80.0, 19.0, 3.0, 0.3))):
        ran.append((build.artifact(f"toy-{name}-onnx-fp32", sigmas=sigmas), len(sigmas)))
    ran.append((build.artifact("toy-heun18-onnx-fp32", sigmas=(80.0,) * 18, sampler="heun", evaluations=35), 35))
    build.artifact("toy-onnx-int8.rejected", precision="int8", mean_db=30.0, gate_db=38.0)
    for folder, evaluations in ran:
        sha = gather([folder]).artifacts[0].facts.sha256
        build.record(
            *(folder.name,),
            **{"sha": sha, "steps": evaluations, "ms": (10.0 * evaluations, 12.0 * evaluations), "run": "together"},
            **{"watts": 5.0, "images": 3500 // evaluations, "model": "Pixel 8", "minutes": (1.0, 1.5)},
            backend={"placement": {"cpu": 7, "npu": 90}, "fallback_ops": ("Resize",), "reasons": {}},
        )
    build.record("broken", kept=False, ms=(), failure={"stage": "load", "message": "no such operator"})
    estimate = {"value": 31.5, "low": 30.0, "high": 33.0}
    judged = {"judge": "j", "pictures": 64, "distances": {"artifact_reference": estimate, "artifact_real": estimate}}
    (tmp_path / "verify.json").write_text(json.dumps({"folder": "toy-k2-onnx-fp32", "distribution": judged}))
    return tmp_path


@pytest.fixture(scope="module")
def whole(everything):
    return page_of([everything])


@pytest.fixture(scope="module")
def html(whole):
    return render_html(whole)


def test_every_latency_is_what_numpy_makes_of_the_samples(build):
    ms = tuple(float(v) for v in np.random.default_rng(0).lognormal(3, 0.3, 251))
    build.record(ms=ms, timing_ms={"p50": 1.0, "p90": 2.0})  # the record lies
    table = read([build.records]).tables["Latency and memory"]
    row = dict(zip(table[0], table[1], strict=True))
    for name, percent in (("p50, ms", 50), ("p90, ms", 90), ("p99, ms", 99)):
        assert float(row[name]) == pytest.approx(np.percentile(ms, percent), rel=6e-4)
    assert float(row["fastest"]) == pytest.approx(min(ms), rel=6e-4)
    assert row["runs"] == "251"


def test_all_parts_are_there_and_agree_with_what_was_built(whole, html):
    assert [s.name for s in whole.sections if s.empty] == []
    reader = Reader(html)
    (steps,) = [
        rows for caption, rows in reader.tables.items() if "onnx fp32 on Pixel 8" in caption and "levels" in rows[0]
    ]
    assert [(row[0], row[2], row[5]) for row in steps[1:]] == [
        *(("1", "not measured", "1.00 x"), ("2", "31.50", "2.00 x"), ("4", "not measured", "4.00 x"))
    ]
    (versus,) = [rows for rows in reader.tables.values() if rows[0][0] == "sampler"]
    assert versus[-1][:3] == ["ratio", "35.0 x", "35.0 x"]
    assert float(versus[-1][4].split()[0]) == pytest.approx(35.0, rel=0.01)
    (battery,) = [rows for rows in reader.tables.values() if rows[0][1] == "battery"]
    charged = dict(zip(battery[0], next(r for r in battery if r[0].startswith("toy-k1")), strict=True))
    # 4485 mAh at 3.87 V, at (5 - 1) W for 10 s over 3500 pictures.
    expected = 4.485 * 3.87 * 3600 / (4.0 * 9.95 / 3500)
    assert float(charged["pictures per charge"]) == pytest.approx(expected, rel=0.02)
    low, high = map(float, charged["band"].split(" to "))
    assert low < expected < high
    verdicts = next(rows for rows in reader.tables.values() if rows[0][0] == "device" and "int8" in rows[0])
    assert any("FAILED: 30.00 dB" in cell for row in verdicts for cell in row)
    assert any("did not run" in cell for row in verdicts for cell in row)


def test_what_was_not_measured_is_said_and_is_no_zero(build):
    build.record(kept=False, ms=(), failure={"stage": "load", "message": "no such operator"})
    page = page_of([build.records])
    assert {s.name for s in page.sections if s.empty} >= {"pictures", "battery", "energy", "sustained", "diffusion"}
    cells = read([build.records]).tables["Latency and memory"][1]
    assert cells[1:5] == ["not measured"] * 4
    assert "Not measured." in render_html(page)


def test_the_page_needs_nothing_and_allows_nothing(html):
    reader = Reader(html)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "iframe", "object", "embed", "base", "form", "foreignobject", "use", "image"}
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "xlink:href", "action"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:image/png;base64,")) or (tag, address) == ("link", "data:,")
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(reader.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "url(" not in reader.style
    assert "@import" not in reader.style


def test_ids_are_unique_links_lead_somewhere_and_every_drawing_has_words(whole, html):
    reader = Reader(html)
    assert len(reader.ids) == len(set(reader.ids))
    for tag, attributes in reader.elements:
        if tag == "a":
            assert attributes["href"][1:] in reader.ids
        if tag == "svg":
            assert set(attributes["aria-labelledby"].split()) <= set(reader.ids)
        if tag == "img":
            assert attributes["alt"]
    for section in whole.sections:
        assert not section.charts or section.tables


def test_the_page_is_small(html):
    pictures = sum(len(a["src"]) for tag, a in Reader(html).elements if tag == "img")
    assert len(html) - pictures < 250_000


def test_hostile_names_stay_text(build, tmp_path):
    device = {"reasons": {"cores": "x", "memory_bytes": "x", "accelerator": "x"}, "os": HOSTILE, "model": HOSTILE}
    build.record(
        *(HOSTILE,),
        **{"processor": HOSTILE, "device": device, "minutes": (1.0,), "watts": 5.0},
        backend={
            "name": HOSTILE,
            "requested": HOSTILE,
            "placement": {HOSTILE: 3},
            "reasons": {},
            "fallback_ops": [HOSTILE],
        },
        failure={"stage": HOSTILE, "message": HOSTILE},
        parity={"reference": HOSTILE},
        artifact={"target": HOSTILE, "precision": HOSTILE, "task": HOSTILE},
    )
    build.artifact("a<b>&onnx", change=lambda f: (f.update(target=HOSTILE), f["checkpoint"].update(file=HOSTILE)))
    page = page_of([tmp_path])
    html = render_html(page)
    assert "\u202e" not in html
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.elements}
    assert not [a for _, a in reader.elements if any(name.startswith("on") for name in a)]
    assert any("<script>alert(1)</script>" in row[0] for rows in reader.tables.values() for row in rows)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render_markdown(page, tmp_path))
    inside = [child for token in tokens for child in token.children or []]
    assert not [t for t in tokens + inside if t.type in ("html_block", "html_inline", "link_open", "code_inline")]
    assert any("<script>alert(1)</script>" in t.content for t in inside if t.type == "text")


def test_markdown_has_the_same_tables(everything, whole):
    page = whole
    text = render_markdown(page, everything)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert sum(t.type == "table_open" for t in tokens) == sum(len(s.tables) for s in page.sections)
    rows = sum(len(table.rows) + 1 for s in page.sections for table in s.tables)
    assert sum(t.type == "tr_open" for t in tokens) == rows
    cells = sum((len(table.rows) + 1) * len(table.head) for s in page.sections for table in s.tables)
    assert sum(t.type in ("td_open", "th_open") for t in tokens) == cells
    images = [c.attrs["src"] for t in tokens for c in t.children or [] if c.type == "image"]
    assert len(images) == 5
    assert all((everything / address).is_file() for address in images)


def test_a_contact_sheet_is_the_artefacts_own_picture(build):
    folder = build.artifact()
    (source,) = [a["src"] for tag, a in read([folder]).elements if tag == "img"]
    embedded = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert np.array_equal(np.asarray(embedded), np.asarray(Image.open(folder / "preview.png").convert("RGB")))


def test_the_share_of_each_part_of_a_checkpoint_is_said(build):
    file = build.artifact() / "manifest.json"
    manifest = json.loads(file.read_text())
    parts = {"text_encoder": 1_000_000, "network": 6_000_000, "decoder": 1_000_000}
    manifest["checkpoint"] |= {"parts": parts, "parameters": 8_000_000}
    file.write_text(json.dumps(manifest))
    (size,) = (s for s in page_of([file.parent]).sections if s.name == "size")
    (said,) = size.notes
    assert said.endswith("of 8.0 million weights, text encoder 12 %, network 75 %, decoder 12 %")


def test_the_time_and_error_of_graphs_that_run_in_turn_are_said(build):
    file = build.artifact() / "manifest.json"
    manifest = json.loads(file.read_text())
    parity = manifest["parity"]
    parity["rungs"][-1]["part_seconds"] = {"encode": 0.001, "paint": 0.006, "decode": 0.003}
    parity["alone_db"] = {"encode": None, "paint": 41.25, "decode": 50.0}
    file.write_text(json.dumps(manifest))
    (size,) = (s for s in page_of([file.parent]).sections if s.name == "size")
    time, error = size.notes
    assert "encode 10 %, paint 60 %, decode 30 %" in time
    assert error.endswith("encode identical, paint 41.2 dB, decode 50.0 dB")


def test_pictures_that_are_not_the_artefacts_are_left_out(build, tmp_path):
    def sheets(folder):
        (section,) = [s for s in page_of([folder]).sections if s.name == "pictures"]
        return section.sheets[0]

    changed = build.artifact("a")
    (changed / "preview.png").write_bytes((build.artifact("b") / "preview.png").read_bytes())
    assert "changed" in sheets(changed).note
    linked = build.artifact("c")
    secret = tmp_path / "secret.png"
    (linked / "preview.png").rename(secret)
    (linked / "preview.png").symlink_to(secret)
    assert "outside" in sheets(linked).note
    assert sheets(linked).data == ""

    def forged(content):
        def change(facts):
            entry = next(f for f in facts["files"] if f["role"] == "preview")
            entry["sha256"] = hashlib.sha256(content).hexdigest()

        folder = build.artifact(hashlib.sha256(content).hexdigest()[:8], change=change)
        (folder / "preview.png").write_bytes(content)
        return sheets(folder)

    assert "not a PNG" in forged(b"<svg onload=alert(1)>").note
    large = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(large, "PNG")
    assert "too many" in forged(large.getvalue()).note
    assert "no preview" in sheets(build.artifact("d", preview=False)).note


def test_a_large_sheet_is_halved_until_it_fits(build):
    def change(facts):
        pixels = np.random.default_rng(0).integers(0, 256, (800, 1000, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        folder = build.folder / "large"
        (folder / "preview.png").write_bytes(buffer.getvalue())
        entry = next(f for f in facts["files"] if f["role"] == "preview")
        entry.update(sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), bytes=len(buffer.getvalue()))

    (image,) = [a for tag, a in read([build.artifact("large", change=change)]).elements if tag == "img"]
    assert len(image["src"]) < 1_000_000
    assert (image["width"], image["height"]) == ("500", "400")


def test_a_battery_that_is_asked_for_is_used_where_the_table_has_none(build):
    build.record(watts=5.0, images=1000)
    tables = read([build.records], battery_asked("10")).tables
    row = tables["Pictures per battery charge"][1]
    assert float(row[3]) == pytest.approx(36e6 / (4.0 * 9.95), rel=0.02)
    (section,) = [s for s in page_of([build.records]).sections if s.name == "battery"]
    assert section.empty
    assert "--battery" in section.notes[0]


def test_different_commands_are_not_compared_in_silence(build, tmp_path):
    for name, sampler, evaluations, run in (("one", "consistency", 1, "a"), ("many", "heun", 35, "b")):
        folder = build.artifact(name, sampler=sampler, evaluations=evaluations)
        build.record(name, sha=gather([folder]).artifacts[0].facts.sha256, run=run)
    (section,) = [s for s in page_of([tmp_path]).sections if s.name == "diffusion"]
    assert "in turns" in section.notes[0]
    assert "1.00 times less time (outside them)" in section.notes[0]


def test_diffusion_costs_a_real_gpu_as_many_times_the_energy_as_evaluations():
    """One step and Heun on an H200, batches apart though all four runs are of one checkpoint file."""
    real = Path(__file__).parents[1] / "bench" / "fixtures" / "h200.jsonl"
    (section,) = [s for s in page_of([real]).sections if s.name == "diffusion"]
    ratios = [table.rows[-1] for table in section.tables]
    assert [[cell.text for cell in row if cell.text] for row in ratios] == [
        ["ratio", "35.0 x", "35.8 x", "35.4 x"],
        ["ratio", "35.0 x", "35.5 x", "35.0 x"],
    ]
    assert [note.partition(":")[0] for note in section.notes] == [
        "NVIDIA H200 · torch-cuda cuda",
        "NVIDIA H200 · torch-cuda cuda, batch 64",
    ]
    assert "inside the promised 10 to 2000" in section.notes[0]


def test_a_time_beside_other_work_is_never_shown_without_the_word(build):
    folder = build.artifact("toy-onnx-fp32")
    sha = gather([folder]).artifacts[0].facts.sha256
    validity = {"flags": ["busy"], "others_during": 0.9}
    build.record("toy-onnx-fp32", sha=sha, ms=(188.0, 188.0), validity=validity)
    page = page_of([folder.parent])
    for section in page.sections:
        for table in section.tables:
            for row in table.rows:
                for head, cell in zip(table.head, row, strict=True):
                    if "188" in cell.text and head not in ("p90, ms", "fastest"):
                        assert "busy" in cell.text, (table.caption, head)
    assert "188 (busy)" in render_html(page)
    assert "188 (busy)" in render_markdown(page, folder.parent)


def test_it_opens_with_pictures_and_one_table(whole):
    first = whole.sections[0]
    assert first.name == "pictures"
    assert len(first.sheets) == 1
    assert first.sheets[0].verdict.tone == "good"
    assert [len(table.rows) for table in first.tables] == [5]
    assert first.tables[0].head[:2] == ("artefact", "ms per picture")
    assert sum(len(section.sheets) for section in whole.sections) == 5
    rows = {row[0].text: row[1].text for row in first.tables[0].rows}
    assert rows["toy-k1-onnx-fp32"] == "11.0"
