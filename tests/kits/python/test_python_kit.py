"""The Python kit as a stranger uses it: its own tests, what they catch, and its README word for word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from support.readme_code import blocks

from cmexport.kits import make_kit, platform_named

PYTHON = platform_named("python")
ARTIFACTS = ("demo", "editing", "worded")


@pytest.fixture(scope="module")
def kit(artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = make_kit(artifact(name), PYTHON, tmp_path_factory.mktemp(name)).folder
        return made[name]

    return find


def _tests(kit: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(kit / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in [name for name in environment if name.startswith("PYTEST")]:
        del environment[name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *options, "tests"]
    return subprocess.run(command, cwd=kit, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_its_own_tests_pass(kit: Callable[[str], Path], name: str) -> None:
    ran = _tests(kit(name))
    assert ran.returncode == 0, ran.stdout
    assert "skipped" not in ran.stdout


# What a mistake would look like: where, what stands there, what stands there instead.
MUTATIONS = {
    "red and blue": ("pictures.py", "return shown", "return shown[:, :, ::-1]"),
    "height and width": ("pictures.py", "transpose(1, 2, 0)", "transpose(2, 1, 0)"),
    "streams": ("noise.py", "np.full_like(block, stream)", "np.full_like(block, stream ^ 1)"),
    # As a processor that fuses products with sums: one rounding in place of two.
    "fused": (
        "noise.py",
        "middle_r = 0.180625 - q * q",
        "exact = np.vectorize(__import__('fractions').Fraction); "
        "middle_r = (exact(0.180625) - exact(q) * exact(q)).astype(np.float64)",
    ),
    "mask": ("pictures.py", "return kept", "return 1 - kept"),
    "hash": ("engine.py", "!= file.sha256", "== file.sha256[1:]"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_its_own_tests_catch(kit: Callable[[str], Path], mutation: str, tmp_path: Path) -> None:
    copied = tmp_path / "kit"
    shutil.copytree(kit("editing"), copied)
    name, right, wrong = MUTATIONS[mutation]
    path = copied / "src" / "cm_cifar10_kit" / name
    source = path.read_text()
    assert source.count(right) == 1
    path.write_text(source.replace(right, wrong))
    ran = _tests(copied, "-x")
    assert ran.returncode == 1, ran.stdout


@pytest.mark.parametrize("name", ARTIFACTS)
def test_types_hold(kit: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "src"]
    ran = subprocess.run(command, cwd=kit(name), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_its_readme_word_for_word(kit: Callable[[str], Path], tmp_path: Path) -> None:
    """In a fresh folder and a fresh environment, which has nothing but what the kit asks for."""
    folder = tmp_path / "app"
    shutil.copytree(kit("worded"), folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    for commands in blocks(folder / "README.md", "sh"):
        command = ["bash", "-euo", "pipefail", "-c", commands]
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (folder / "pictures.png").stat().st_size > 10_000
    for code in blocks(folder / "README.md", "python"):
        command = [str(folder / ".venv/bin/python"), "-c", code]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def package(kit: Callable[[str], Path]):
    """The demo model's package, imported from its kit."""
    sys.path.insert(0, str(kit("demo") / "src"))
    try:
        import cm_cifar10_kit

        yield cm_cifar10_kit
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] == "cm_cifar10_kit"]:
            del sys.modules[name]


def test_a_picture_is_given_up_while_it_is_made(package) -> None:
    """From another thread, by `cancel`; the generator goes on afterwards."""
    import threading

    with package.Generator(threads=1) as generator:
        before = generator.generate(package.Label.SHIP, seed=7)
        stopped = []

        def draw() -> None:
            try:
                while True:
                    generator.generate(package.Label.SHIP, seed=7)
            except package.Cancelled:
                stopped.append(True)

        thread = threading.Thread(target=draw)
        thread.start()
        while thread.is_alive():
            generator.cancel()
            time.sleep(0.005)
        thread.join()
        assert stopped == [True]
        assert (generator.generate(package.Label.SHIP, seed=7) == before).all()


def test_pictures_leave_nothing_behind(package) -> None:
    with package.Generator(threads=1) as generator:
        generator.generate(0, seed=0)
        tracemalloc.start()
        try:
            first = tracemalloc.get_traced_memory()[0]
            for seed in range(20):
                generator.generate(0, seed=seed)
            grown = tracemalloc.get_traced_memory()[0] - first
        finally:
            tracemalloc.stop()
    # A picture has 3,072 bytes, its noise 12,288; what Python keeps of lines and names is some thousands once.
    assert grown < 10 * 3072


def test_wrong_use(package, tmp_path: Path) -> None:
    with package.Generator() as generator:
        for label in (-1, 10):
            with pytest.raises(package.BadInput, match="label: 0 to 9"):
                generator.generate(label)
    with pytest.raises(package.ModelMissing):
        package.Generator(tmp_path)
    shutil.copytree(Path(package.__file__).parent / "model", tmp_path / "model")
    with (tmp_path / "model" / "model.onnx").open("r+b") as model:
        model.write(bytes(64))
    with pytest.raises(package.ModelDamaged):
        package.Generator(tmp_path / "model")
    with pytest.raises(package.RuntimeFailed):
        package.Generator(tmp_path / "model", check=False).generate(0)
