"""Kits for iOS on Linux: Swift, stubs of Apple's frameworks, and Core ML played by ONNX Runtime.

A package that the stub of Core ML opens holds ONNX files, one a function. So the kit's own code runs as it is, from
`Generator` to `MLMultiArray`; what is not run is Apple's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from filelock import FileLock

from cmexport.artifact import read_manifest
from cmexport.artifact.manifest import FileRecord
from cmexport.kits.facts import Kit, KitRun, kit_of
from cmexport.kits.golden import golden_files
from cmexport.kits.making import FACTS
from cmexport.kits.platforms.ios import PLATFORM
from cmexport.kits.rendering import render, spelled
from cmexport.tokenizer import read_tokenizer

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("CMEXPORT_SWIFT_ROOT") or "nowhere")

Swift = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and {"swift", "stubs", "built"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skipif(not (ROOT / "run").is_file(), reason="no Swift: make system"))


@pytest.fixture(scope="session")
def swift() -> Swift:
    """Runs a shell command in Swift's root; folders of the system are given by their names below /mnt."""

    def run(command: str, **folders: Path) -> subprocess.CompletedProcess[str]:
        seen = [f"{folder}={name}" for name, folder in folders.items()]
        called = [str(ROOT / "run"), *seen, "--", "sh", "-euc", command]
        return subprocess.run(called, capture_output=True, text=True, check=False, timeout=280)

    return run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "kit-ios"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def stubs(swift: Swift, shared: Path) -> Path:
    """The stubs as compiled modules."""
    out = shared / "stubs"
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    with FileLock(shared / "stubs.lock"):
        if not out.exists():
            partial = shared / "stubs.partial"
            partial.mkdir()
            command = f"sh /mnt/ios/build_stubs.sh /mnt/ios/stubs /mnt/out /mnt/ort/{library.name}"
            done = swift(command, ios=HERE, out=partial, ort=library.parent)
            assert done.returncode == 0, done.stderr
            partial.rename(out)
    return out


def disguised(artifact: Path, folder: Path) -> Kit:
    """Write the iOS kit of an ONNX artefact as if its graphs were functions of one Core ML package."""
    found = kit_of(artifact, read_manifest(artifact))
    several = len(found.runs) > 1
    kit = found.model_copy(
        update={
            "target": "coreml",
            "runs": tuple(_disguised_run(run, several) for run in found.runs),
            "files": tuple(_disguised_file(file, several) for file in found.files),
        }
    )
    model = folder / spelled(PLATFORM.model_folder, kit)
    for file, original in zip(kit.files, found.files, strict=True):
        (model / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact / original.path, model / file.path)
    tokenizer = None if kit.tokenizer is None else read_tokenizer(artifact / kit.tokenizer.folder)
    golden = golden_files(artifact, found, tokenizer)
    for below, files in ((folder / spelled(PLATFORM.golden_folder, kit), golden), (folder, render(kit, PLATFORM))):
        for name, content in files.items():
            (below / name).parent.mkdir(parents=True, exist_ok=True)
            (below / name).write_bytes(content)
    (folder / FACTS).write_text(kit.model_dump_json())
    return kit


def _disguised_run(run: KitRun, several: bool) -> KitRun:
    def int32(tensor):
        return tensor.model_copy(update={"dtype": tensor.dtype.replace("int64", "int32")})

    graphs = [
        graph.model_copy(
            update={
                "file": "model.mlpackage",
                "function": Path(graph.file).stem if several else None,
                "inputs": tuple(map(int32, graph.inputs)),
            }
        )
        for graph in run.graphs
    ]
    return run.model_copy(update={"graphs": tuple(graphs), "inputs": tuple(map(int32, run.inputs))})


def _disguised_file(file: FileRecord, several: bool) -> FileRecord:
    if not file.path.endswith(".onnx"):
        return file
    return file.model_copy(update={"path": f"model.mlpackage/{file.path if several else 'model.onnx'}"})


@pytest.fixture(scope="session")
def disguise() -> Callable[[Path, Path], Kit]:
    """Writes the iOS kit of an ONNX artefact as if its graphs were functions of one Core ML package."""
    return disguised


SEARCH = "-Xswiftc -I/mnt/stubs -Xswiftc -L/mnt/stubs"
ENVIRONMENT = "export HOME=/tmp/home-$$ LD_LIBRARY_PATH=/mnt/stubs; mkdir -p $HOME; cd /mnt/kit"


@pytest.fixture(scope="session")
def build(swift: Swift, stubs: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Builds a kit with its tests, by its own Package.swift."""
    command = f"{ENVIRONMENT}; swift build --disable-sandbox --build-tests {SEARCH} -Xswiftc -warnings-as-errors"
    return lambda kit: swift(command, kit=kit, stubs=stubs)


@pytest.fixture(scope="session")
def run_tests(swift: Swift, stubs: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs tests of a kit that is built; the home folder is a new one, so that no model was compiled before."""
    command = f"{ENVIRONMENT}; swift test --disable-sandbox --skip-build --disable-swift-testing {SEARCH} 2>&1"
    return lambda kit, *more: swift(" ".join([command, *more]), kit=kit, stubs=stubs)


@pytest.fixture(scope="session")
def built(artifact, build, shared: Path) -> Path:
    """The kit of the demo model that draws and edits in two steps, with further tests beside its own, built."""
    kit = shared / "built"
    with FileLock(shared / "built.lock"):
        if not kit.exists():
            partial = shared / "built.partial"
            disguised(artifact("editing"), partial)
            for test in (HERE / "tests").glob("*.swift"):
                shutil.copyfile(test, partial / "Tests/CmCifar10KitTests" / test.name)
            done = build(partial)
            assert done.returncode == 0, done.stdout + done.stderr
            partial.rename(kit)
    return kit
