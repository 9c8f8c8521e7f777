"""What a target is to the rest of cmexport."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cmexport.graph.capture import CapturedGraph, RewriteReport
from cmexport.graph.looping import CapturedLoop
from cmexport.graph.rewriting import Rewrite
from cmexport.parity.ladder import Rung
from cmexport.signature import Signature

Progress = Callable[[str], None]
Graphs = Mapping[str, Callable[[], CapturedGraph]]


def files_inside(packed: Path, first: str) -> tuple[str, ...]:
    """Files of a model that is a folder, relative to the folder it lies in: `first`, then the others by name."""
    inner = sorted(p.relative_to(packed.parent).as_posix() for p in packed.rglob("*") if p.is_file())
    head = f"{packed.name}/{first}"
    return (head, *(path for path in inner if path != head))


@dataclass(frozen=True)
class LoweredModel:
    """What lowering wrote and decided.

    Attributes:
        files: model files relative to the folder, the one to open first.
        precision_plan: which types are used where; plain data for the manifest.
        session: execution provider and session options the file was shaped for.
        tools: versions of the libraries that made it.
        rewrites: account of the rewrites that only this target applies.
        signature: the border of the written file, in its own dtypes.
        simplification: what onnxsim did to the file, as plain data; None where it was not asked.
    """

    files: tuple[str, ...]
    precision_plan: Mapping[str, Any]
    session: Mapping[str, Any]
    tools: Mapping[str, str]
    signature: Signature
    rewrites: tuple[RewriteReport, ...] = field(default=())
    simplification: Mapping[str, Any] | None = None


class Target(Protocol):
    """A format with its runtime; `info.TargetInfo` says the rest of it.

    Attributes:
        own_rewrites: rewrites that only this target applies, by the names `--rewrites` takes.
    """

    own_rewrites: tuple[Rewrite, ...] = ()

    def rewrites_for(self, options: Any) -> tuple[Rewrite, ...]:
        """Those of its own rewrites that `options` ask for; applied with the general ones, they cost one trace less.

        What can be refused without a graph is refused here: callers ask before they read a checkpoint.

        Raises:
            UsageError: an option this target does not know, or one that contradicts another.
            BackendError: a library that the options need is missing.
        """
        ...

    def lower(self, graphs: Graphs, options: Any, folder: Path, progress: Progress) -> Mapping[str, LoweredModel]:
        """Write all graphs of an artefact into a folder; by default a file each, named by its graph if there are more.

        Each graph is captured when it is called, so that the folded weights of one at a time are in memory.

        Raises:
            UsageError: an option this target does not know.
            BackendError: a library is missing or refuses the graph.
        """
        named = {name: name if len(graphs) > 1 else "model" for name in graphs}
        return {name: self.lower_one(graphs[name](), options, folder, progress, named[name]) for name in graphs}

    def lower_one(
        self, captured: CapturedGraph, options: Any, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """Write one graph into an existing folder, as `name` and the format's suffix; raises as `lower`."""
        ...

    def lower_loop(
        self, loop: CapturedLoop, options: Any, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """As `lower`, for a sampler that evaluates one copy of the network many times.

        Only targets that have `TargetInfo.loop_precisions` are asked.

        Raises:
            UsageError: an option this target does not know.
            BackendError: a library is missing or refuses the graph.
        """
        raise NotImplementedError

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Write the manifest's facts into the model file itself, so that a lone file explains itself."""
        ...

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:
        """The parity ladder's steps for a written model, from the least to the most optimized; the last one ships."""
        ...

    def remarks(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> Iterable[str]:  # noqa: ARG002
        """Lines that an export says of a graph's files; by default none."""
        return ()
