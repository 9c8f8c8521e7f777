"""What a child process is told. Standard library only: light children must not import torch to learn their job."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class HostLoop:
    """One step of consistency sampling outside the graph, for engines whose file is the bare network.

    x = sigma * noise; image = c_skip x + c_out F(c_in x, c_noise[, label]), then clamped if `clamp`.
    """

    sigma: float
    c_skip: float
    c_out: float
    c_in: float
    c_noise: float
    clamp: bool


@dataclass(frozen=True)
class EngineSpec:
    """One engine on one case, ready to be opened.

    Attributes:
        name: what tables call it.
        kind: key into `engines.KINDS`.
        path: model file, checkpoint or pipeline folder.
        shape: (N, C, H, W) of a run.
        classes: labels of the model, None if unconditional.
        threads: intra-op threads.
        arithmetic: what the products are expected to be computed in; an engine may report otherwise.
        host_loop: set when `path` is the bare network.
        options: whatever the kind needs besides.
        overrides: settings for reading a checkpoint.
        costly: slow to start; takes part in the first generations only.
        graph: `path` is an ONNX file whose nodes can be counted.
        note: for the table.
    """

    name: str
    kind: str
    path: str
    shape: tuple[int, int, int, int]
    classes: int | None
    threads: int
    arithmetic: str = "fp32"
    host_loop: HostLoop | None = None
    options: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    costly: bool = False
    graph: bool = False
    note: str = ""

    def to_json(self) -> str:
        """One line, for the child's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EngineSpec:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        loop = fields.pop("host_loop")
        return cls(**{**fields, "shape": tuple(fields["shape"])}, host_loop=HostLoop(**loop) if loop else None)


def path_of(folder: Path, name: str) -> Path:
    """Where a made thing lies: a folder for the pipeline, JSON for `work`, else an ONNX file."""
    suffix = {"pipeline": "", "work": ".json"}.get(name, ".onnx")
    return folder / f"{name}{suffix}"
