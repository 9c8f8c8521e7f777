"""What is read off processors of several makers, from the text their kernels print."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from cmexport.doctor import machine
from cmexport.doctor.machine import CPU_FEATURES, examine_machine

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 atomics fphp asimdhp cpuid asimdrdm asimddp i8mm bf16
CPU implementer\t: 0x41

Hardware\t: BCM2712
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            X86,
            "Intel(R) Xeon(R) Platinum 8488C",
            ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
        ),
        (ARM, "BCM2712", ("asimd", "asimdhp", "asimddp", "i8mm", "bf16")),
    ],
    ids=["x86", "arm"],
)
def test_cpuinfo(linux, tmp_path: Path, text: str, name: str, features: tuple[str, ...]):
    (tmp_path / "cpuinfo").write_text(text)
    found = examine_machine(tmp_path / "cpuinfo")
    assert found.processor == name
    assert found.cpu_features == features


def test_without_cpuinfo_nothing_is_invented(linux, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(platform, "processor", lambda: "")
    found = examine_machine(tmp_path / "absent")
    assert found.processor is None
    assert found.cpu_features == ()


def test_macos_features_come_from_sysctl(monkeypatch: pytest.MonkeyPatch):
    printed = (
        "machdep.cpu.brand_string: Apple M2\nhw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\n"
        "hw.optional.arm.FEAT_BF16: 0\n"
    )
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(
        machine.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, printed, "unknown")
    )
    found = examine_machine()
    assert found.processor == "Apple M2"
    assert found.cpu_features == ("asimd", "asimddp")


def test_unknown_memory_is_none_and_not_zero(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse)
    assert examine_machine().memory_bytes is None


def test_this_machine():
    found = examine_machine()
    assert 1 <= found.cores_usable <= found.cores
    assert found.memory_bytes is None or found.memory_bytes > 2**28
    assert set(found.cpu_features) <= set(CPU_FEATURES)
