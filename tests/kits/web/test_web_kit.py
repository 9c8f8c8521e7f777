"""The web kit as a stranger uses it: its own tests, what they catch, its types, its size."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cmexport.bench.on_device import device_files
from cmexport.kits import make_kit, platform_named

from .conftest import RUNTIME, needs_library, needs_node

ARTIFACTS = ("demo", "editing", "worded")
TYPESCRIPT = Path(os.environ.get("CMEXPORT_TYPESCRIPT", "build/typescript")) / "node_modules"

needs_typescript = pytest.mark.skipif(
    not (TYPESCRIPT / ".bin/tsc").exists(),
    reason="no TypeScript here: sh tests/kits/make_typescript.sh build/typescript",
)


def _tests(kit: Path, pattern: str = ".") -> subprocess.CompletedProcess[str]:
    command = ["node", "--test", f"--test-name-pattern={pattern}", "test/kit.test.mjs"]
    return subprocess.run(command, cwd=kit, capture_output=True, text=True, check=False)


@needs_library
@needs_node
@pytest.mark.parametrize("name", ARTIFACTS)
def test_its_own_tests_pass(kit: Callable[[str], Path], name: str) -> None:
    ran = _tests(kit(name))
    assert ran.returncode == 0, ran.stdout
    # Two runs have four pictures each, all have four at least.
    assert len(re.findall(r"^ok .* the picture of seed", ran.stdout, re.MULTILINE)) == (8 if name == "editing" else 4)


# What a mistake would look like: where, what stands there, what stands there instead, and the test that sees it.
MUTATIONS = {
    "red and blue": ("pictures.mjs", "channels === 3 ? colour : 0;", "channels === 3 ? 2 - colour : 0;", "red, green"),
    "height and width": ("pictures.mjs", '"NCHW" ? [a, b, c]', '"NCHW" ? [a, c, b]', "red, green"),
    "streams": ("noise.mjs", "/ WORD), stream, 0]", "/ WORD), stream ^ 1, 0]", "streams of a seed"),
    "which stream": ("engine.mjs", "noise(seed, each, k + 1)", "noise(seed, each, k)", "generate: the picture"),
    # As a processor that fuses products with sums: one rounding in place of two. Dekker's product; the sum is exact.
    "fused": (
        "noise.mjs",
        "const r = 0.180625 - q * q;",
        "const s = 134217729 * q, h = s - (s - q), l = q - h, p = q * q;"
        "const r = 0.180625 - p - (h * h - p + 2 * h * l + l * l);",
        "a word gives",
    ),
    "mask": ("pictures.mjs", "(byte) => byte / 255", "(byte) => 1 - byte / 255", "pixels that the mask keeps"),
    "hash": ("files.mjs", "=== file.sha256", '!== ""', "a model with one byte changed"),
}


@needs_library
@needs_node
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_its_own_tests_catch(kit: Callable[[str], Path], mutation: str, tmp_path: Path) -> None:
    copied = tmp_path / "kit"
    shutil.copytree(kit("editing"), copied, symlinks=True)
    name, right, wrong, pattern = MUTATIONS[mutation]
    path = copied / "src" / name
    source = path.read_text()
    assert source.count(right) == 1
    path.write_text(source.replace(right, wrong))
    ran = _tests(copied, pattern)
    assert ran.returncode == 1, ran.stdout
    assert "not ok" in ran.stdout


@needs_library
@needs_node
def test_a_byte_of_the_model_changed_is_caught(kit: Callable[[str], Path], tmp_path: Path) -> None:
    copied = tmp_path / "kit"
    shutil.copytree(kit("demo"), copied, symlinks=True)
    model = copied / "model/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    ran = _tests(copied, "generate: the picture")
    assert ran.returncode == 1
    assert "(its SHA-256 differs)" in ran.stdout


CONSUMER = """
import { Generator, KitError, noise, type Drawn } from "./src/index.mjs";
USE
const generator = await Generator.load({ device: "auto", onProgress: ({ loaded, total }) => loaded / total });
const backend: "wasm" | "webgpu" = generator.backend;
const numbers: Float32Array = noise(7n, 12);
// @ts-expect-error no such option
await Generator.load({ gpu: true });
// @ts-expect-error made by `load` alone
new Generator();
try {
  await generator.selfTest();
} catch (error) {
  if (error instanceof KitError && error.kind === "cancelled") throw error;
}
"""
USES = {
    "demo": """import { Label } from "./src/index.mjs";
const drawn: Drawn = await (await Generator.load()).generate({ label: Label.ship, seed: 7n });
// @ts-expect-error this model has ten classes
await (await Generator.load()).generate({ label: 10, seed: 7n });
// @ts-expect-error it takes no words
await (await Generator.load()).generate({ label: Label.ship, prompt: "a ship", seed: 7n });
// @ts-expect-error it does not edit
(await Generator.load()).edit;
""",
    "editing": """import { Label, type Picture } from "./src/index.mjs";
declare const image: Picture;
const mask = new Uint8Array(1024);
const drawn: Drawn = await (await Generator.load()).edit({ image, mask, label: Label.ship, seed: 7 });
// @ts-expect-error without a mask nothing is kept
await (await Generator.load()).edit({ image, label: Label.ship, seed: 7 });
""",
    "worded": """
const drawn: Drawn = await (await Generator.load()).generate({ prompt: "crying cat", seed: 7n });
// @ts-expect-error words are wanted
await (await Generator.load()).generate({ seed: 7n });
// @ts-expect-error it has no classes
await (await Generator.load()).generate({ prompt: "crying cat", label: 1, seed: 7n });
""",
}
# What `index.d.mts` promises is what the modules have.
PROMISES = """
import type * as promised from "./src/index.mjs";
import { KitError } from "./src/errors.mjs";
import { forget } from "./src/files.mjs";
import { Kit } from "./src/generator.mjs";
import { between, noise } from "./src/noise.mjs";
const functions: Pick<typeof promised, "noise" | "between" | "forget"> = { noise, between, forget };
declare const kit: Kit;
const members: Pick<promised.Generator, keyof promised.Generator> = kit;
declare const error: KitError;
const facts: Pick<promised.KitError, "kind" | "path" | "db"> = error;
export { functions, members, facts };
"""


@needs_typescript
@pytest.mark.parametrize("name", ARTIFACTS)
def test_types_hold(kit: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    copied = tmp_path / "kit"
    shutil.copytree(kit(name), copied, symlinks=True, ignore=shutil.ignore_patterns("node_modules", "model", "golden"))
    (copied / "node_modules").symlink_to(TYPESCRIPT.resolve())
    (copied / "consumer.mts").write_text(CONSUMER.replace("USE", USES[name]))
    (copied / "promises.mts").write_text(PROMISES)
    options = {
        **dict.fromkeys(("strict", "checkJs", "allowJs", "noEmit", "skipLibCheck", "noUncheckedIndexedAccess"), True),
        **dict.fromkeys(("exactOptionalPropertyTypes", "noImplicitOverride"), True),
        "module": "nodenext",
        "target": "esnext",
        "lib": ["ESNext", "DOM", "DOM.Iterable"],
        "types": ["node"],
    }
    (copied / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["**/*.mjs", "*.mts"]}))
    command = ["node", str(TYPESCRIPT.resolve() / "typescript/bin/tsc"), "-p", "."]
    ran = subprocess.run(command, cwd=copied, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_one_release_of_the_runtime(kit: Callable[[str], Path]) -> None:
    pinned = json.loads((device_files("web") / "vendor.json").read_text())["version"]
    package = json.loads((kit("demo") / "package.json").read_text())
    assert package["dependencies"] == {"onnxruntime-web": pinned}
    script = Path("tests/kits/make_typescript.sh").read_text()
    assert f"onnxruntime-web@{pinned}" in script


def test_the_same_artefact_gives_the_same_bytes(kit: Callable[[str], Path], demo: Path, tmp_path: Path) -> None:
    again = make_kit(demo, platform_named("web"), tmp_path).folder
    first = kit("demo")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in files:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert {str(name).split("/")[0] for name in files} >= {"README.md", "index.html", "src", "page", "test", "golden"}
    assert not (again / RUNTIME).exists()


def test_it_is_small(kit: Callable[[str], Path]) -> None:
    """What a visitor fetches beside model and runtime, compressed as servers do."""
    folder = kit("worded")
    sources = [path for part in ("src", "page") for path in (folder / part).iterdir() if path.suffix != ".mts"]
    sent = [*sources, folder / "index.html", folder / "service-worker.mjs"]
    assert sum(path.stat().st_size for path in (folder / "src").glob("*.mjs")) < 60_000
    assert sum(len(gzip.compress(path.read_bytes())) for path in sent) < 45_000
