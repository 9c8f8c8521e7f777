"""The kit for iOS, built with Swift and run: its own tests, and further ones of its parts."""

from __future__ import annotations

import re


def test_the_kits_own_tests_and_further_ones_pass(built, run_tests):
    done = run_tests(built)
    assert done.returncode == 0, done.stdout
    executed = re.search(r"Executed (\d+) tests, with 0 failures", done.stdout)
    assert executed and int(executed[1]) > 20
