"""Where the runners lie that are sent to devices: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from cmexport.errors import BackendError


def device_files(kind: str) -> Path:
    """Folder of one kind of runner: "python", "web", ...

    Raises:
        BackendError: the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    # The wheel carries bench_device/ as cmexport/bench/on_device_files/ (pyproject.toml, force-include).
    for folder in (package / "on_device_files" / kind, package.parent.parent / "bench_device" / kind):
        if folder.is_dir():
            return folder
    raise BackendError(f"the {kind} runner is missing from this installation; reinstall cmexport")
