"""Kits are built with warnings as errors, and their own tests pass: under sanitizers, and as a shared library."""

from __future__ import annotations

import ctypes
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import cpp_kits

from cmexport import noise
from cmexport.kits import make_kit, platform_named


@pytest.fixture(scope="module")
def shared(kit, worded, release, tmp_path_factory) -> tuple[Path, Path]:
    """The kit with words as one shared library with its programs: kit and build folder."""
    folder = kit(worded)
    build = tmp_path_factory.mktemp("shared")
    cpp_kits.configured(folder, build, release, "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Debug")
    cpp_kits.make(build)
    return folder, build


def test_two_runs_under_sanitizers(kit, editing, release, tmp_path):
    """Addresses, leaks and undefined behaviour: pictures, editing, damaged files, cancellation, the C API."""
    flags = " ".join(("-O0", "-g1", *cpp_kits.SANITIZERS))
    options = (f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_C_FLAGS={flags}", "-DCMAKE_BUILD_TYPE=None")
    cpp_kits.configured(kit(editing), tmp_path, release, *options)
    cpp_kits.make(tmp_path)
    said = cpp_kits.run("ctest", "--output-on-failure", "--verbose", folder=tmp_path)
    assert "100% tests passed, 0 tests failed out of 6" in said
    # Four of each run; where the processor is the one that drew the golden pictures, they are the same to the byte.
    found = re.search(r"self-test: worst (\S+) dB, \S+ ms a picture, (\d+) pictures", said)
    assert found is not None
    assert found[2] == "8"
    assert float(found[1]) >= 80
    print(*re.findall(r"(self-test.*|cancelled .*)", said), sep="\n")


def test_words_in_a_shared_library(shared):
    _, build = shared
    said = cpp_kits.run("ctest", "--output-on-failure", folder=build)
    assert "100% tests passed, 0 tests failed out of 6" in said


class Request(ctypes.Structure):
    _fields_ = (
        ("run", ctypes.c_char_p),
        ("seed", ctypes.c_uint64),
        ("label", ctypes.c_int64),
        ("prompt", ctypes.c_int64),
        ("text", ctypes.c_char_p),
        ("image", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("cancel", ctypes.c_void_p),
        ("guidance", ctypes.c_float),
    )


class Library:
    """The C API as Flutter, Unity and JNI see it: a shared library, and structures of numbers."""

    def __init__(self, build: Path):
        (path,) = build.glob("libemoji.so")
        self.calls = ctypes.CDLL(str(path))
        self.calls.emoji_model.restype = ctypes.c_void_p
        self.calls.cmkit_last_error.restype = ctypes.c_char_p
        self.calls.cmkit_cancel_new.restype = ctypes.c_void_p

    def open(self, folder: Path) -> ctypes.c_void_p:
        generator = ctypes.c_void_p()
        model = ctypes.c_void_p(self.calls.emoji_model())
        status = self.calls.cmkit_open(model, str(folder).encode(), 1, 1, ctypes.byref(generator))
        assert status == 0, self.calls.cmkit_last_error()
        return generator

    def draw(self, generator: ctypes.c_void_p, request: Request) -> tuple[int, np.ndarray]:
        picture = np.zeros((128, 128, 3), np.uint8)
        room = ctypes.c_size_t(picture.nbytes)
        status = self.calls.cmkit_draw(generator, ctypes.byref(request), ctypes.c_void_p(picture.ctypes.data), room)
        return status, picture


def test_the_c_api_from_another_language(shared):
    folder, build = shared
    library = Library(build)
    generator = library.open(folder / "model")
    facts = json.loads((folder / "golden/golden.json").read_text())
    for one in facts["pictures"][:2]:
        request = Request(seed=int(one["seed"]), text=one["text"].encode())
        status, drawn = library.draw(generator, request)
        assert status == 0
        stored = np.frombuffer((folder / "golden" / one["expected"]).read_bytes(), np.uint8).reshape(drawn.shape)
        apart = np.abs(drawn.astype(int) - stored)
        assert apart.max() <= 1
        assert (apart > 0).mean() <= 0.001, "half precision"
    status, _ = library.draw(generator, Request(seed=1))
    assert (status, library.calls.cmkit_last_error()) == (4, b"this model takes a text")

    cancel = ctypes.c_void_p(library.calls.cmkit_cancel_new())
    asked = []

    def stop() -> None:
        time.sleep(0.05)
        asked.append(time.monotonic())
        library.calls.cmkit_cancel_request(cancel)

    thread = threading.Thread(target=stop)
    thread.start()
    request = Request(seed=1, text=b"crying cat", cancel=cancel)
    while (status := library.draw(generator, request)[0]) == 0:
        pass
    late = time.monotonic() - asked[0]
    thread.join()
    assert (status, library.calls.cmkit_last_error()) == (5, b"the drawing was cancelled")
    print(f"\nreturned {late * 1000:.1f} ms after the request")
    library.calls.cmkit_cancel_free(cancel)
    library.calls.cmkit_close(generator)


def test_noise_of_the_c_api(shared):
    library = Library(shared[1])
    for seed, stream, count in ((0, 0, 5), (2**64 - 1, 3, 1000)):
        values = np.zeros(count, np.float32)
        pointer = ctypes.c_void_p(values.ctypes.data)
        library.calls.cmkit_noise(ctypes.c_uint64(seed), ctypes.c_uint32(stream), pointer, ctypes.c_size_t(count))
        assert values.tobytes() == noise.draw(seed, count, stream).tobytes()


def test_two_hundred_pictures_take_no_more_memory(kit, demo, release, tmp_path):
    folder = kit(demo)
    cpp_kits.configured(folder, tmp_path, release, "-Dcm_cifar10_programs=OFF")
    cpp_kits.make(tmp_path)
    program = cpp_kits.PROGRAMS / "growth.cpp"
    flags = [f"-I{folder / 'include'}", "-DHEADER=<cm_cifar10/cm_cifar10.hpp>", "-DKIT=cm_cifar10"]
    library = [f"-L{release / 'lib'}", "-lonnxruntime", f"-Wl,-rpath,{release / 'lib'}"]
    cpp_kits.run(
        "g++", *cpp_kits.WARNINGS, *flags, program, tmp_path / "libcm_cifar10.a", *library, "-o", tmp_path / "growth"
    )
    said = cpp_kits.run(tmp_path / "growth", folder / "model", "200")
    print("\n" + said)
    grown, peak = (int(kib) for kib in re.findall(r"(-?\d+) KiB", said))
    assert grown < 1024
    assert peak * 1024 < 4 * (folder / "model/model.onnx").stat().st_size + 60e6


def test_a_kit_is_the_same_every_time(kit, worded, tmp_path):
    def files(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    again = make_kit(worded, platform_named("cpp"), tmp_path).folder
    assert files(kit(worded)) == files(again)


def test_without_onnx_runtime_cmake_says_what_to_set(kit, demo, release, tmp_path):
    said = cpp_kits.run("cmake", "-S", kit(demo), "-B", tmp_path, code=1, ONNXRUNTIME_ROOT="")
    assert "set ONNXRUNTIME_ROOT to the folder of its release" in " ".join(said.split())
