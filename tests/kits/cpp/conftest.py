"""A kit of each artefact, made once a worker, and ONNX Runtime as a C++ project finds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import cpp_kits

from cmexport.kits import make_kit, platform_named


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's headers and library, with include/ and lib/."""
    if reason := cpp_kits.missing():
        pytest.skip(reason)
    return cpp_kits.release(tmp_path_factory.mktemp("onnxruntime") / "release")


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The kit of an artefact; tests leave it as it is, or copy it."""
    made: dict[Path, Path] = {}

    def find(artifact: Path) -> Path:
        if artifact not in made:
            made[artifact] = make_kit(artifact, platform_named("cpp"), tmp_path_factory.mktemp("kit")).folder
        return made[artifact]

    return find
