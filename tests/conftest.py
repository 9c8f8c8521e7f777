"""`pytest --quick`: the part of the suite that takes two minutes and touches every package. See slow.txt."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

SLOW = Path(__file__).parent / "slow.txt"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="Leave out what tests/slow.txt names.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("quick"):
        return
    lines = SLOW.read_text().splitlines()
    slow = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    left_out = [item for item in items if _names(item) & slow]
    items[:] = [item for item in items if not _names(item) & slow]
    config.hook.pytest_deselected(items=left_out)


_freeze, _unfreeze = gc.freeze, gc.unfreeze


@pytest.fixture(autouse=True, scope="session")
def _one_who_freezes():
    """Nobody else: `unfreeze` would undo `_libraries_are_no_garbage` as well."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("freeze", "unfreeze"):
            patch.setattr(gc, name, lambda: None)
        yield
    _unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage(_one_who_freezes):
    """Collections pass over what was imported and what the session shares.

    An export collects seven times, to return memory, and coremltools' converter does; each takes 0.2 s if it looks
    through torch and the tests as well.
    """
    gc.collect()
    _freeze()


def _names(item: pytest.Item) -> set[str]:
    """What a line of slow.txt may call a test: its file, its function, or a fixture of its file that it uses."""
    file = "tests/" + item.path.relative_to(SLOW.parent).as_posix()
    function = item.nodeid.partition("::")[2].partition("[")[0]
    fixtures = getattr(item, "fixturenames", ())
    return {file, f"{file}::{function}", *(f"{file}@{name}" for name in fixtures)}
