"""Work in a fork: its result, its failures, and that it never outlives whoever asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cmexport.parity.ahead import Ahead, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="forks compute on Linux only")


def test_it_gives_what_the_work_gives_here():
    image = torch.rand(8, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    kernel = torch.rand(16, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    # A pool that has run in the parent is what a fork can't use.
    here = torch.nn.functional.conv2d(image, kernel).numpy()
    there = Ahead(lambda: torch.nn.functional.conv2d(image, kernel).numpy()).result()
    np.testing.assert_allclose(there, here, rtol=1e-6)


@pytest.mark.parametrize("fault", [lambda: 1 / 0, lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: lambda: None])
def test_a_failure_gives_nothing_and_says_nothing(fault, capfd):
    assert Ahead(fault).result() is None
    assert capfd.readouterr() == ("", "")


def test_closing_ends_it_at_once():
    begun = time.monotonic()
    ahead = Ahead(lambda: time.sleep(60))
    process = ahead._process
    ahead.close()
    assert not process.is_alive()
    assert time.monotonic() - begun < 30


def test_it_dies_with_its_parent():
    code = (
        "import os, time\n"
        "from cmexport.parity.ahead import Ahead\n"
        "ahead = Ahead(lambda: time.sleep(60))\n"
        "print(ahead._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    for _ in range(100):
        # Its new parent may be slow to collect it.
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the fork is still there")
