"""What is served at all, addresses, and the QR code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmexport.bench.on_device import device_files
from cmexport.bench.web.link import is_loopback, link, qr_code, reachable_host
from cmexport.bench.web.pages import Page
from cmexport.errors import BackendError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the page with made-up vendored files."""
    copy = tmp_path / "web"
    shutil.copytree(device_files("web"), copy, ignore=shutil.ignore_patterns("vendor"))
    (copy / "vendor").mkdir()
    for name in json.loads((copy / "vendor.json").read_text())["files"]:
        (copy / "vendor" / name).write_bytes(b"x")
    return copy


def test_page_lists_its_files_and_nothing_else(folder: Path) -> None:
    (folder / "vendor" / "other.mjs").write_text("1")
    page = Page.read(folder)
    assert "index.html" in page.files
    assert "vendor/ort.wasm.min.mjs" in page.files
    assert "vendor/other.mjs" not in page.files
    assert not [name for name in page.files if name.endswith((".py", ".json", ".md"))]


def test_missing_library_names_the_remedy(folder: Path) -> None:
    (folder / "vendor" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(BackendError, match=r"onnxruntime-web is not there\nfetch it once: python .*fetch.py"):
        Page.read(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}'])
def test_damaged_installation(folder: Path, content: str) -> None:
    (folder / "vendor.json").write_text(content)
    with pytest.raises(BackendError, match="install cmexport again"):
        Page.read(folder)
    (folder / "index.html").unlink()
    with pytest.raises(BackendError, match="install cmexport again"):
        Page.read(folder)


def test_fetch_refuses_another_package(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "vendor")
    wrong = tmp_path / "onnxruntime-web.tgz"
    wrong.write_bytes(b"not the package")
    command = [sys.executable, str(folder / "fetch.py"), "--tarball", str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "its integrity differs" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "vendor").exists()
    assert list(folder.glob(".vendor-*")) == []


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.7", False)]
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_links() -> None:
    assert link("http", "127.0.0.1", 80, "T") == "http://127.0.0.1:80/T/"
    assert link("https", "fe80::1", 8000, "T") == "https://[fe80::1]:8000/T/"
    assert reachable_host("10.0.0.7") == "10.0.0.7"


def test_qr_code_holds_the_link() -> None:
    segno = pytest.importorskip("segno", reason="segno is in the extra `bench`")
    text = link("https", "192.168.100.200", 65535, "A" * 22)
    drawn = qr_code(text)
    assert drawn is not None
    rows = drawn.splitlines()
    side = segno.make(text, error="l", micro=False).symbol_size(border=2)[0]
    # Two modules a line, one a column: it fits a terminal of 80 x 24.
    assert len({len(row) for row in rows if row}) == 1
    assert len(rows[0]) == side
    assert len(rows) <= 24
