"""What is no regular file is refused at once by every reader; a reader that hangs fails by the test's time limit."""

import json
import os
import socket
from pathlib import Path

import pytest

from cmexport.errors import CheckpointError, CmexportError, UsageError
from cmexport.files import read_file, require_file

KINDS = ("named pipe", "device", "socket", "folder")


@pytest.fixture(params=KINDS)
def special(request, tmp_path, monkeypatch):
    """A function: puts something that is no file at a path, and returns what a message should call it."""

    def put(path: Path) -> str:
        path.unlink(missing_ok=True)
        if request.param == "named pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            # The name of a socket has at most 107 characters.
            monkeypatch.chdir(path.parent)
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        return request.param

    return put


def test_kinds(tmp_path, special):
    kind = special(tmp_path / "x")
    with pytest.raises(UsageError, match=rf"x: is a {kind}, not a recipe"):
        require_file(tmp_path / "x", "a recipe", UsageError)
    with pytest.raises(CheckpointError, match=kind):
        read_file(tmp_path / "x")
    if kind == "folder":
        require_file(tmp_path / "x", folder=True)


def test_regular_and_missing_files(tmp_path):
    (tmp_path / "x").write_text("x")
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link", "missing", "no\0name", "loop"):
        require_file(tmp_path / name)
    assert read_file(tmp_path / "link") == b"x"


def readers():
    """Every reader of a path that users name, by name."""
    from cmexport.artifact import read_arrays, read_manifest
    from cmexport.artifact.writing import write_atomically
    from cmexport.bench.devices.folder import read_result
    from cmexport.bench.records import append_record, read_records
    from cmexport.bench.samples import read_samples
    from cmexport.checkpoints import load_checkpoint
    from cmexport.checkpoints.sharded import read_shards
    from cmexport.cli.options import read_project
    from cmexport.layer_study.state import ScoreFile
    from cmexport.photos import read_mask, read_photo
    from cmexport.quality.features import load_judge, read_statistics
    from cmexport.quantize.precision_plan import read_plan
    from cmexport.recipes.identity import tree_hash
    from cmexport.recipes.reading import read_document
    from cmexport.report.scores import read_scores
    from cmexport.targets.coreml.executor.blobs import BlobFile
    from cmexport.targets.tensorrt.header import read_header
    from cmexport.targets.tensorrt.layers import read_layers
    from cmexport.tuning.project import write_schedule
    from cmexport.tuning.search import ScoreBook

    class Record:
        def model_dump_json(self):
            return "{}"

    return {
        "checkpoint": ("x.pt", load_checkpoint),
        "sidecar": ("x.toml", lambda path: load_checkpoint(path.with_suffix(".pt"))),
        "module": ("x.py", lambda path: load_checkpoint(f"{path}:build")),
        "shard index": ("x.json", lambda path: read_shards(path, lambda _: {})),
        "project": ("cmexport.toml", lambda path: read_project(path.parent)),
        "schedule": ("cmexport.toml", lambda path: write_schedule(path, (80.0, 1.0))),
        "photo": ("x.png", lambda path: read_photo(path, 32, 3)),
        "mask": ("x.png", lambda path: read_mask(path, None)),
        "arrays": ("x.npz", read_arrays),
        "plan": ("plan.toml", read_plan),
        "state of a plan": ("state.json", lambda path: ScoreFile(path, {}, 2)),
        "state of a search": ("state.json", lambda path: ScoreBook(path, {})),
        "recipe": ("recipe.toml", read_document),
        "hash": ("x.pt", tree_hash),
        "ruler": ("ruler.pt", lambda path: load_judge(str(path), None)),
        "statistics": ("x.npz", read_statistics),
        "manifest": ("manifest.json", lambda path: read_manifest(path.parent)),
        "records": ("records.jsonl", read_records),
        "records to add to": ("records.jsonl", lambda path: append_record(path, Record())),
        "samples": ("x.json", read_samples),
        "result of a job": ("result.jsonl", read_result),
        "scores": ("scores.json", read_scores),
        "engine": ("x.engine", read_header),
        "layers of an engine": ("x.layers.json", read_layers),
        "weights of a package": ("weight.bin", BlobFile.open),
        "file to write": ("grid.png", lambda path: write_atomically(path, b"x")),
    }


def message_of(read, path):
    with pytest.raises(CmexportError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("reader", sorted(readers()))
def test_every_reader_refuses_at_once(reader, tmp_path, special):
    name, read = readers()[reader]
    (tmp_path / "x.pt").write_bytes(b"x")
    kind = special(tmp_path / name)
    if kind == "folder" and reader in ("checkpoint", "hash", "sidecar"):
        # Folders of diffusers are checkpoints, and a folder `x.toml` beside `x.pt` is none of ours.
        assert reader in ("hash", "sidecar") or "is a folder" in message_of(read, tmp_path / name)
        return
    message = message_of(read, tmp_path / name)
    assert name in message
    assert len(message.splitlines()) <= 3
    if kind != "folder":
        assert f"is a {kind}" in message


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x.pt", ("inspect", "{}")),
        ("x.pt", ("onnx", "{}", "-o", "out")),
        ("x.png", ("sample", "--task", "colorize", "--image", "{}", "-o", "grid.png")),
        ("x.png", ("inspect", "--pictures", "{}")),
        ("x.npz", ("sample", "--inputs", "{}", "--save", "y.npz")),
        ("r.toml", ("run", "{}")),
        ("x.pt", ("run", "ok.toml", "--checkpoint", "{}")),
        ("x.pt", ("run", "named.toml", "--dry-run")),
        ("key", ("bench", "{}", "--device", "local")),
        ("records.jsonl", ("report", "{}")),
        ("x.engine", ("inspect", "{}")),
    ],
)
def test_the_command_line(name, arguments, tmp_path, special, monkeypatch, capsys):
    from cmexport.cli.main import main

    kind = special(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.toml").write_text('[targets.onnx]\nprecisions = ["fp32"]\n')
    (tmp_path / "named.toml").write_text('[checkpoint]\nfile = "x.pt"\n[targets.onnx]\nprecisions = ["fp32"]\n')
    if kind == "folder" and arguments[0] == "run" and "{}" not in arguments[1]:
        return  # A folder is a checkpoint; what is wrong in it the exporting step tells.
    code = main([name if argument == "{}" else argument for argument in arguments])
    error = capsys.readouterr().err
    assert code in (2, 3), error
    assert name in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(60)
def test_the_runner_on_a_device(tmp_path, special):
    import subprocess
    import sys

    kind = special(tmp_path / "job.json")
    runner = Path(__file__).parent.parent / "bench_device" / "python" / "runner.py"
    done = subprocess.run(
        [sys.executable, str(runner), str(tmp_path)], capture_output=True, text=True, timeout=50, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no regular file" in done.stderr, (kind, done.stderr, json.dumps(done.stdout[:500]))
