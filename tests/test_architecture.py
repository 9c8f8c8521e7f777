"""The layers: the import contracts of pyproject.toml hold, they bite, and heavy libraries are imported when used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Optional backends: 4 to 8 s of import time each, or absent in a base installation.
HEAVY = (
    "cryptography",
    "asyncssh",
    "coremltools",
    "diffusers",
    "openvino",
    "plotly",
    "torch_fidelity",
    "torchmetrics",
    "sklearn",
    "tensorrt",
    "tensorrt_rtx",
    "transformers",
    "zeus",
)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_packages_import_only_from_layers_below():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def toy(tmp_path: Path):
    """A toy cmexport of empty packages under the real contracts; returns a function that writes one module into it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def write(module: str, text: str = "") -> Path:
        *packages, name = module.split(".")
        folder = tmp_path
        for package in packages:
            folder = folder / package
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / f"{name}.py").write_text(text)
        return tmp_path

    for package in ("sampling", "networks", "signature", "runner", "model", "demo", "naming", "errors", "parity"):
        write(f"cmexport.{package}")
    write("cmexport.targets.base", "import cmexport.model")
    write("cmexport.targets.registry", "import cmexport.targets.base")
    write("cmexport.targets.onnx.lower", "import cmexport.targets.base\nimport cmexport.targets.registry")
    write("cmexport.targets.coreml.lower", "import cmexport.targets.base\nimport cmexport.parity")
    return write


def test_the_toy_package_keeps_the_contracts(toy):
    done = lint_imports(toy("cmexport.errors"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("cmexport.model", "import cmexport.sampling", "Packages import downward only"),
        ("cmexport.parity", "def f():\n    import cmexport.targets.onnx.lower", "Packages import downward only"),
        ("cmexport.naming", "import cmexport.demo", "Packages import downward only"),
        ("cmexport.extra", "", "Packages import downward only"),
        ("cmexport.targets.onnx.lower", "import cmexport.targets.coreml.lower", "Targets do not know each other"),
    ],
    ids=["upward", "upward inside a function", "sideways", "a package without a layer", "target to target"],
)
def test_the_contracts_bite(toy, module: str, text: str, broken: str):
    done = lint_imports(toy(module, text))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout


def test_importing_everything_loads_no_optional_backend():
    code = """
import importlib, json, pkgutil, sys, cmexport
names = [m.name for m in pkgutil.walk_packages(cmexport.__path__, "cmexport.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps([len(names), sorted({m.partition(".")[0] for m in sys.modules})]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, loaded = json.loads(done.stdout.splitlines()[-1])
    assert count > 10
    assert not set(HEAVY) & set(loaded)
