"""Two kits in one module, compiled once a session by one process of the compiler, with what is checked of them.

The compiler takes 10 s for its first file and less than 3 s for one more; so everything that any test wants compiled is
a job of this one process, and a test looks what came of its job.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from support.readme_code import blocks

from cmexport.kits import Kit, make_kit, platform_named
from cmexport.kits.facts import KitGraph, KitRun, KitTensor
from cmexport.kits.rendering import render

from .mutations import MUTATIONS, OF_THE_ENGINE

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
TOOLS = Path(os.environ.get("CMEXPORT_KOTLIN_ROOT", ""))
ANDROID = platform_named("android")
LIBRARY = "kit/src/main/kotlin/dev/cmexport/kit"

_COMPILER = (
    *("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect", "kotlinx-coroutines-core-jvm"),
    "annotations-13.0",
)
_JUNIT = ("junit4", "hamcrest-core")
# What Android code sees, and what runs here in its place.
_SEEN = ("android-23", "onnxruntime-android-1.29", "kotlin-stdlib", "kotlinx-coroutines-core-jvm", "annotations-13.0")
_RUN = ("onnxruntime-linux-1.17", "android-json", "kotlin-stdlib", "kotlinx-coroutines-core-jvm")
# 2.2 is the oldest language that this compiler knows without complaint.
_OPTIONS = (
    *("-Werror", "-no-stdlib", "-no-reflect", "-jvm-target", "17"),
    *("-language-version", "2.2", "-api-version", "2.2"),
)


def _jars(names: Sequence[str]) -> list[Path]:
    return [TOOLS.resolve() / "jars" / f"{name}.jar" for name in names]


def _path(entries: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, entries))


@dataclass(frozen=True)
class Built:
    """What the compiler left: `kit` is the module, `folder` holds a folder of classes for each job."""

    kit: Path
    folder: Path

    def complaints(self, job: str) -> str:
        """What the compiler said of a job; "" if it went through."""
        return "" if (self.folder / f"{job}.job.done").exists() else (self.folder / f"{job}.job.said").read_text()

    def run(self, main: str, *arguments: object, before: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
        """Run a program or tests, `before` being classes that replace others, in the module's folder."""
        compiled = [self.folder / name for name in ("library", "tests", "manual", "standins")]
        path = _path([*before, *compiled, *_jars(_RUN), *_jars(_JUNIT)])
        # A heap of one size: what grows beside it is ONNX Runtime's.
        command = ["java", "-Xms96m", "-Xmx96m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-cp", path, main]
        return subprocess.run(
            [*command, *map(str, arguments)], cwd=self.kit / "kit", capture_output=True, text=True, check=False
        )

    def test(self, *names: str, before: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
        """Run test classes, or CLASS#METHOD."""
        return self.run("phone.Tests", *(f"dev.cmexport.kit.{name}" for name in names), before=before)


@pytest.fixture(scope="session")
def built(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """Both kits in one module as the manual says, and all jobs done."""
    if not (TOOLS / "complete-1").exists() or shutil.which("javac") is None:
        pytest.skip("no Kotlin compiler: make system")
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "kit-android"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "finished").exists():
            _build(folder, {name: artifact(name) for name in ("editing", "worded")})
            (folder / "finished").touch()
    return Built(folder / "cm_cifar10-kit-android", folder)


def _build(folder: Path, artifacts: dict[str, Path]) -> None:
    first, second = (make_kit(path, ANDROID, folder).folder for path in artifacts.values())
    for below in (LIBRARY, "kit/src/test/kotlin/dev/cmexport/kit", "kit/src/main/assets"):
        shutil.copytree(second / below / "emoji", first / below / "emoji")
    android = _jars(_SEEN)
    _javac(folder / "standins", HERE / "standins", _jars(_JUNIT))
    _javac(folder / "newer", HERE / "newer", [*_jars(("android-23",)), *_jars(_JUNIT)])
    library, standins = folder / "library", folder / "standins"
    jobs = {
        "library": _job(library, android, [first / "kit/src/main", first / "kit/src/shared"]),
        "tests": _job(
            folder / "tests",
            [library, *android, *_jars(_JUNIT), standins],
            [first / "kit/src/test", HERE / "kotlin"],
            friend=library,
        ),
        "sample-first": _job(folder / "sample-first", [library, *android], [first / "sample"]),
        "sample-second": _job(folder / "sample-second", [library, *android], [second / "sample"]),
        "manual": _job(folder / "manual", [library, *android, standins], [_manual(folder, first, second)]),
        "bench": _job(
            folder / "bench",
            [folder / "newer", *android, *_jars(_JUNIT)],
            [ROOT / "bench_device/android/app", ROOT / "cmexport/kits/templates/android/kit/src/shared"],
        ),
        "wrong": _job(folder / "wrong", [library, *android], [_wrong(folder)]),
    }
    for name, kit in oddities(first).items():
        rendered = folder / f"sources-{name}"
        for path, content in render(kit, ANDROID).items():
            (rendered / path).parent.mkdir(parents=True, exist_ok=True)
            (rendered / path).write_bytes(content)
        jobs[name] = _job(folder / name, [*android, *_jars(_JUNIT)], [rendered])
    for name, mutation in {**MUTATIONS, **OF_THE_ENGINE}.items():
        source = folder / f"sources-{name}" / mutation.file
        text = (first / LIBRARY / mutation.file).read_text()
        assert text.count(mutation.right) == 1, name
        source.parent.mkdir()
        source.write_text(text.replace(mutation.right, mutation.wrong))
        # Only the JDK has fused multiplication.
        jdk = "fma" in mutation.wrong
        seen = [library, *(_jars(("kotlin-stdlib",)) if jdk else android)]
        jobs[name] = _job(folder / name, seen, [source.parent], friend=library, jdk=jdk)
    for name, arguments in jobs.items():
        (folder / f"{name}.job").write_text("\n".join(arguments))
    command = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx1g", "-cp", _path(_jars(_COMPILER))]
    files = [str(folder / f"{name}.job") for name in jobs]
    subprocess.run([*command, str(HERE / "Compile.java"), *files], check=True, capture_output=True, text=True)


def _job(
    output: Path,
    seen: Sequence[Path],
    sources: Sequence[Path],
    friend: Path | None = None,
    jdk: bool = False,
) -> list[str]:
    """Return the compiler's arguments; a friend's internal names can be used.

    Android has no java.net.http, for one: the computer's own classes are seen with `jdk` alone.
    """
    found = sorted(str(path) for source in sources for path in source.rglob("*.kt"))
    assert found, sources
    friends = [] if friend is None else [f"-Xfriend-paths={friend}"]
    return [*_OPTIONS, *([] if jdk else ["-no-jdk"]), *friends, "-cp", _path(seen), "-d", str(output), *found]


def _javac(output: Path, sources: Path, seen: Sequence[Path]) -> None:
    files = sorted(map(str, sources.rglob("*.java")))
    subprocess.run(["javac", "-nowarn", "-d", str(output), "-cp", _path(seen), *files], check=True)


def _manual(folder: Path, *kits: Path) -> Path:
    """Put the Kotlin of each README, word for word, into a function that can be called."""
    sources = folder / "sources-manual"
    sources.mkdir()
    for kit in kits:
        lines = [line for block in blocks(kit / "README.md", "kotlin") for line in block.splitlines()]
        imports = "\n".join(line for line in lines if line.startswith("import "))
        code = "\n".join(line for line in lines if not line.startswith("import "))
        name = kit.name.removesuffix("-kit-android")
        (sources / f"{name}.kt").write_text(
            f"package manual.{name}\n\nimport android.graphics.Bitmap\n{imports}\n\n"
            f"suspend fun read(context: android.content.Context, photo: Bitmap, mask: Bitmap): Array<Any> {{\n{code}\n"
            f"return arrayOf({'bitmap, edited' if 'edited' in code else 'bitmap, photo, mask'})\n}}\n\n"
            "fun main(arguments: Array<String>) = kotlinx.coroutines.runBlocking {\n"
            "    val grey = Bitmap.createBitmap(IntArray(6) { 0x808080 }, 3, 2, Bitmap.Config.ARGB_8888)\n"
            "    val phone = phone.Phone(java.io.File(arguments[0]), java.io.File(arguments[1]))\n"
            "    val bitmaps = read(phone, grey, grey).filterIsInstance<Bitmap>()\n"
            '    println(bitmaps.joinToString { "${it.width} x ${it.height}" })\n'
            "}\n"
        )
    return sources


def _wrong(folder: Path) -> Path:
    """What Android lacks, or the kit keeps to itself, must not get through."""
    source = folder / "sources-wrong" / "Wrong.kt"
    source.parent.mkdir()
    source.write_text(
        "val http = java.net.http.HttpClient.newHttpClient()\n"
        "fun bitmap() = android.graphics.Bitmap.creatBitmap(1, 1)\n"
        "val store: dev.cmexport.kit.ModelStore? = null\n"
    )
    return source.parent


def oddities(made: Path) -> dict[str, Kit]:
    """Kits of models that none of the packaged ones is: every input, other outputs, names that are no identifiers."""
    kit = Kit.model_validate_json((made / "kit.json").read_text())
    generate, inpaint = kit.runs

    def changed(run: KitRun, inputs: Sequence[KitTensor], output: KitTensor) -> KitRun:
        graph = KitGraph(name=run.name, file=run.graphs[0].file, function=None, inputs=tuple(inputs), output=output)
        return run.model_copy(update={"graphs": (graph,), "inputs": tuple(inputs), "output": output})

    noise = generate.inputs[0]
    prompt = KitTensor(name="prompt", dtype="int64", shape=(1,), layout="N")
    guidance = KitTensor(name="guidance", dtype="float32", shape=(1,), layout="N", limits=(1.0, 20.0))
    uint8 = KitTensor(name="image", dtype="uint8", shape=(1, 48, 32, 3), layout="NHWC")
    prompts = ('$5 a "night"\\', "fun", "fun!", "éclair\f", "7 cats", "日本")
    closed = {"labels": None, "prompts": prompts, "guidance": 5.0, "name": "Über-net 2", "license": "MIT"}
    return {
        "prompts": kit.model_copy(update={**closed, "runs": (changed(generate, (noise, prompt, guidance), uint8),)}),
        "edits": kit.model_copy(update={"runs": (inpaint,), "labels": (*(kit.labels or ())[:-1], "class")}),
        "plain": kit.model_copy(update={"labels": None, "runs": (changed(generate, (noise,), generate.output),)}),
    }
