"""All 2^32 values of the noise: minutes, so only where it is asked for (`make kit-noise`)."""

from __future__ import annotations

import os
import subprocess

import pytest
from support import cpp_kits


@pytest.mark.skipif("CMEXPORT_ALL_WORDS" not in os.environ, reason="takes minutes: make kit-noise")
@pytest.mark.timeout(1800)
def test_every_word(tmp_path):
    sources = [cpp_kits.PROGRAMS / "exhaustive.cpp", cpp_kits.TEMPLATES / "src/noise.cpp"]
    program = cpp_kits.compiled(tmp_path / "exhaustive", sources, "-O2", "-ffp-contract=off")
    assert subprocess.check_output([program], text=True).strip() == "005e8bd3"
