"""Whole or not at all, whatever breaks and whenever."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmexport.artifact import artifact_name, reject_name, staged_folder, write_atomically
from cmexport.artifact import writing as module
from cmexport.errors import BackendError, CheckpointError, OutputError


def tree(folder: Path) -> dict[str, str | None]:
    """Everything below, hidden names too: path to content, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def fill(final: Path, text: str = "new", reject: bool = False) -> None:
    with staged_folder(final) as staging:
        (staging.path / "manifest.json").write_text(text)
        if reject:
            staging.reject()


def test_names() -> None:
    assert artifact_name("cars", "onnx", "fp16") == "cars-onnx-fp16"
    assert reject_name(Path("out/cars-onnx-w4")) == Path("out/cars-onnx-w4.rejected")
    assert reject_name(Path("out/v1.5")) == Path("out/v1.5.rejected")


def test_nothing_is_at_the_final_place_until_the_end(tmp_path: Path) -> None:
    final = tmp_path / "out" / "deep" / "cars"
    with staged_folder(final) as staging:
        (staging.path / "manifest.json").write_text("new")
        assert not final.exists()
        assert staging.path.parent == final.parent
        assert staging.path.name == f".cars.partial-{os.getpid()}"
    assert tree(tmp_path) == {
        "out": None,
        "out/deep": None,
        "out/deep/cars": None,
        "out/deep/cars/manifest.json": "new",
    }


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(Path("a/../cars"))
    assert tree(tmp_path) == {"cars": None, "cars/manifest.json": "new"}


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit, CheckpointError, GeneratorExit])
@pytest.mark.parametrize("old", [False, True])
def test_any_exception_leaves_no_trace_and_keeps_the_old_one(
    tmp_path: Path, kind: type[BaseException], old: bool
) -> None:
    final = tmp_path / "out" / "deep" / "cars"
    if old:
        fill(final, "old")
    before = tree(tmp_path)
    with pytest.raises(kind), staged_folder(final) as staging:  # noqa: PT012
        (staging.path / "data").mkdir()
        (staging.path / "data" / "half").write_text("x")
        raise kind("stop")
    assert tree(tmp_path) == before


def test_parents_that_others_filled_meanwhile_stay(tmp_path: Path) -> None:
    final = tmp_path / "out" / "deep" / "cars"
    with pytest.raises(RuntimeError), staged_folder(final):  # noqa: PT012
        (tmp_path / "out" / "note").write_text("mine")
        raise RuntimeError
    assert tree(tmp_path) == {"out": None, "out/note": "mine"}


def test_an_artefact_of_ours_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "cars", "old")
    (tmp_path / "cars" / "extra").write_text("old")
    fill(tmp_path / "cars", "new")
    assert tree(tmp_path) == {"cars": None, "cars/manifest.json": "new"}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cars").mkdir()
    fill(tmp_path / "cars")
    assert tree(tmp_path) == {"cars": None, "cars/manifest.json": "new"}


def foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years")


@pytest.mark.parametrize(
    ("obstacle", "match"),
    [
        (foreign_folder, r"manifest\.json is missing"),
        (lambda path: path.write_text("years"), "a file is in the way"),
        (lambda path: path.symlink_to("elsewhere"), "symbolic link"),
    ],
)
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, obstacle, match) -> None:
    obstacle(tmp_path / "cars")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=match), staged_folder(tmp_path / "cars"):
        pytest.fail("refused before any work is done")
    assert tree(tmp_path) == before


def test_what_appears_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a file is in the way"), staged_folder(tmp_path / "cars"):
        (tmp_path / "cars").write_text("years")
    assert tree(tmp_path) == {"cars": "years"}


def test_a_rejected_artefact_stands_beside_the_accepted_one(tmp_path: Path) -> None:
    fill(tmp_path / "cars", "good")
    fill(tmp_path / "cars", "bad", reject=True)
    fill(tmp_path / "cars", "worse", reject=True)
    assert tree(tmp_path) == {
        "cars": None,
        "cars/manifest.json": "good",
        "cars.rejected": None,
        "cars.rejected/manifest.json": "worse",
    }


@pytest.mark.parametrize("kind", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_the_old_one_is_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: BaseException
) -> None:
    fill(tmp_path / "cars", "old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            kind.filename = str(self)
            raise kind
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        fill(tmp_path / "cars", "new")
    assert tree(tmp_path) == {"cars": None, "cars/manifest.json": "old"}


def test_an_interrupt_right_after_the_last_rename_leaves_only_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "cars", "old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        result = rename(self, target)
        if ".partial-" in self.name:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "cars", "new")
    assert tree(tmp_path) == {"cars": None, "cars/manifest.json": "new"}


def test_an_interrupt_during_the_clearing_up_is_obeyed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    remove = shutil.rmtree

    def impatient(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", impatient)
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "cars") as staging:  # noqa: PT012
        (staging.path / "half").write_text("x")
        raise RuntimeError
    assert tree(tmp_path) == {}


def test_an_abandoned_folder_of_the_same_process_id_is_left_alone(tmp_path: Path) -> None:
    abandoned = tmp_path / f".cars.partial-{os.getpid()}"
    abandoned.mkdir()
    (abandoned / "half").write_text("x")
    fill(tmp_path / "cars")
    assert (abandoned / "half").read_text() == "x"
    assert (tmp_path / "cars" / "manifest.json").read_text() == "new"


def test_a_file_where_a_parent_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        fill(tmp_path / "out" / "deep" / "cars")
    assert tree(tmp_path) == {"out": "x"}


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "no space left"),
        (errno.EIO, "Input"),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_folders_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, match: str, after: int
) -> None:
    """Two parents and the hidden folder are made; the disk refuses any of the three."""
    made = []
    mkdir = Path.mkdir

    def refuse(self: Path, *args: object, **options: object) -> None:
        if len(made) == after:
            raise OSError(code, os.strerror(code), str(self))
        made.append(self)
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=match) as caught:
        fill(tmp_path / "out" / "deep" / "cars")
    assert len(str(caught.value).splitlines()) == 1
    assert len(made) == after
    assert tree(tmp_path) == {}


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        fill(tmp_path / "out" / ("x" * 300))
    assert tree(tmp_path) == {}


def test_a_write_that_meets_a_full_device(tmp_path: Path) -> None:
    """/dev/full answers every write with a true ENOSPC, and the error names no file."""
    with pytest.raises(OutputError, match="no space left"), staged_folder(tmp_path / "out" / "cars") as staging:  # noqa: PT012
        (staging.path / "model.onnx").symlink_to("/dev/full")
        (staging.path / "model.onnx").write_bytes(b"x" * 100_000)
    assert tree(tmp_path) == {}


def test_an_error_about_a_staged_file_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory"), staged_folder(tmp_path / "cars") as staging:
        staging.path.write_text("x")
    assert tree(tmp_path) == {}


def test_an_error_about_another_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "cars"):
        (tmp_path / "absent").read_text()
    assert tree(tmp_path) == {}


def test_a_writer_without_errno_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(OutputError, match="no space left"), staged_folder(tmp_path / "cars"):
        raise RuntimeError("protobuf: write failed")
    with pytest.raises(BackendError), staged_folder(tmp_path / "cars"):
        raise BackendError("has its own explanation")
    assert tree(tmp_path) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A real disk of 64 KiB where this process may mount one, else None."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    yield disk if mounted else None
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_fills_up(small_disk: Path | None) -> None:
    if small_disk is None:
        # /dev/full above shows the same without the right to mount.
        return
    fill(small_disk / "cars", "old")
    with pytest.raises(OutputError, match="no space left"), staged_folder(small_disk / "cars") as staging:  # noqa: PT012
        (staging.path / "manifest.json").write_text("new")
        (staging.path / "model.onnx").write_bytes(b"x" * 1_000_000)
    with pytest.raises(OutputError, match="no space left"):
        write_atomically(small_disk / "grid.png", b"x" * 1_000_000)
    assert tree(small_disk) == {"cars": None, "cars/manifest.json": "old"}


def test_a_real_interrupt_in_another_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cmexport.artifact.writing import staged_folder\n"
        # A test run started in the background has SIGINT ignored, and its children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with staged_folder(Path(sys.argv[1]) / 'out' / 'cars') as staging:\n"
        "    (staging.path / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    (staging.path / 'more').write_text('x')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert tree(tmp_path) == {}


def test_write_atomically_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert tree(tmp_path) == {"grid.png": "new"}


def test_write_atomically_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="read-only"):
        write_atomically(path, b"new")
    assert tree(tmp_path) == {"grid.png": "old"}


def test_write_atomically_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_atomically(tmp_path / "absent" / "grid.png", b"x")
