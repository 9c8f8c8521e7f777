"""The computer itself: interpreter, processor, memory and the instructions that decide speed."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from cmexport.doctor.findings import Machine

# Which instructions decide speed or fidelity, under the names that the kernel or the vendor prints.
CPU_FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "avx2": "8-wide float32",
        "avx512f": "16-wide float32",
        "avx_vnni": "8-bit dot products; without VNNI, U8S8 int8 saturates in 16 bits",
        "avx512_vnni": "8-bit dot products; without VNNI, U8S8 int8 saturates in 16 bits",
        "avx512_bf16": "bfloat16 dot products",
        "avx512_fp16": "float16 arithmetic",
        "amx_int8": "8-bit matrix tiles",
        "amx_bf16": "bfloat16 matrix tiles",
        "asimd": "NEON",
        "asimdhp": "float16 arithmetic",
        "asimddp": "8-bit dot products",
        "i8mm": "8-bit matrix products",
        "bf16": "bfloat16 matrix products",
        "sve": "scalable vectors",
    }
)

# macOS names them through sysctl; the right-hand side is Linux's name for the same instruction.
_APPLE_FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "hw.optional.neon": "asimd",
        "hw.optional.arm.FEAT_FP16": "asimdhp",
        "hw.optional.arm.FEAT_DotProd": "asimddp",
        "hw.optional.arm.FEAT_I8MM": "i8mm",
        "hw.optional.arm.FEAT_BF16": "bf16",
        "hw.optional.avx2_0": "avx2",
        "hw.optional.avx512f": "avx512f",
    }
)


def examine_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Interpreter, system, processor, cores, memory and the instructions that matter."""
    processor, flags = _processor(cpuinfo)
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        memory = None
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor,
        cores=cores,
        cores_usable=usable,
        memory_bytes=memory,
        cpu_features=tuple(f for f in CPU_FEATURES if f in flags),
    )


def _processor(cpuinfo: Path) -> tuple[str | None, frozenset[str]]:
    """Name and instruction names from the kernel's cpuinfo, or from sysctl on macOS."""
    if platform.system() == "Darwin":
        return _apple_processor()
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return platform.processor() or None, frozenset()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    # x86 says "flags" and "model name"; ARM says "Features" and, on some boards, "Hardware" or "Model".
    flags = fields.get("flags") or fields.get("features") or ""
    name = fields.get("model name") or fields.get("hardware") or fields.get("model")
    return name or platform.processor() or None, frozenset(flags.split())


def _apple_processor() -> tuple[str | None, frozenset[str]]:
    names = ["machdep.cpu.brand_string", *_APPLE_FEATURES]
    # sysctl exits with 1 when it does not know one of the names, and still prints the others.
    try:
        done = subprocess.run(["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return platform.processor() or None, frozenset()
    values = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    flags = frozenset(flag for name, flag in _APPLE_FEATURES.items() if values.get(name) == "1")
    return values.get("machdep.cpu.brand_string"), flags
