"""A kit on an emulated ARM processor: the noise to the bit, and one golden picture. No time is taken from it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import cpp_kits

ROOT = Path(os.environ.get("CMEXPORT_AARCH64_ROOT", "no root"))
COMPILER = "aarch64-linux-gnu-g++"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """ONNX Runtime 1.24 for ARM, by the names that linkers and loaders look for."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}: make system")
    if not (ROOT / "python").is_file():
        pytest.skip("no ARM libraries: make system")
    folder = tmp_path_factory.mktemp("aarch64")
    (library,) = (ROOT / "site/onnxruntime/capi").glob("libonnxruntime.so.*.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library.resolve())
    return folder


def test_noise_and_a_picture(kit, demo, release, libraries, tmp_path):
    folder = kit(demo)
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_BUILD_TYPE=Release"]
    compilers = [f"-DCMAKE_CXX_COMPILER={COMPILER}", f"-DCMAKE_C_COMPILER={COMPILER.replace('g++', 'gcc')}"]
    runtime = [
        f"-DONNXRUNTIME_INCLUDE={release / 'include'}",
        f"-DONNXRUNTIME_LIBRARY={libraries / 'libonnxruntime.so'}",
    ]
    # What ONNX Runtime itself needs lies in the ARM root, where the linker does not look.
    linked = "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined"
    cpp_kits.configured(folder, tmp_path, release, *system, *compilers, *runtime, linked)
    cpp_kits.make(tmp_path, "noise_test", "picture_test", "cm_cifar10_sample")
    paths = f"LD_LIBRARY_PATH={libraries}:{ROOT}/usr/lib/aarch64-linux-gnu:{ROOT}/lib/aarch64-linux-gnu"
    emulated = ["qemu-aarch64-static", "-cpu", "cortex-a76", "-L", ROOT, "-E", paths]
    cpp_kits.run(*emulated, tmp_path / "noise_test")
    cpp_kits.run(*emulated, tmp_path / "picture_test")

    golden = json.loads((folder / "golden/golden.json").read_text())["pictures"][0]
    label = json.loads((folder / "kit.json").read_text())["labels"][golden["label"]]
    cpp_kits.run(*emulated, tmp_path / "sample", label, golden["seed"], tmp_path / "picture.png")
    stored = np.frombuffer((folder / "golden" / golden["expected"]).read_bytes(), np.uint8)
    with Image.open(tmp_path / "picture.png") as picture:
        apart = np.abs(np.asarray(picture).ravel().astype(int) - stored)
    # At most 0.01 % would be none of 3,072; ARM's sums are in another order, a tie may fall the other way.
    assert apart.max() <= 1
    assert (apart > 0).sum() <= 1
    print(f"\n{(apart > 0).sum()} of {apart.size} bytes off by one")
