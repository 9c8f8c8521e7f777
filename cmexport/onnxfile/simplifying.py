"""onnxsim on a finished file: an optional last pass, before anything is verified."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import onnx_ir as ir

from cmexport.errors import BackendError, first_line
from cmexport.onnxfile.saving import save
from cmexport.signature import Signature


@dataclass(frozen=True)
class Simplification:
    """What onnxsim did, for the manifest: its version, and the file's nodes before and after, subgraphs included."""

    onnxsim: str
    nodes_before: int
    nodes_after: int


def onnxsim() -> ModuleType:
    """Import the onnxsim package, which is an extra.

    Raises:
        BackendError: it isn't installed.
    """
    try:
        return importlib.import_module("onnxsim")
    except ImportError as error:
        raise BackendError(
            "--simplify needs onnxsim, which isn't installed: pip install 'cmexport[simplify]'"
        ) from error


def simplify_file(signature: Signature, path: Path) -> tuple[tuple[str, ...], Simplification]:
    """Let onnxsim rewrite a file that `saving.save` wrote, in its place.

    What it makes is saved as every other model is: the border's names, the IR version, weights beyond 2 GB beside the
    file, the checker's word. The accounts that it leaves in `metadata_props` (names of the nodes it took, its options)
    are dropped there; the manifest has the numbers.

    Returns:
        The files' names, as `saving.save`, and what was done.

    Raises:
        BackendError: onnxsim is missing or fails, or what it made is not valid ONNX.
        OSError: the file can't be written.
    """
    package = onnxsim()
    release = version("onnxsim")
    before = _nodes(ir.load(path))
    try:
        # Certifying would look for z3, and prove nothing about a network. Parity on pictures comes after this.
        proto, _ = package.simplify(str(path), certify=False)
    except Exception as error:  # a compiled library's: RuntimeError, ValueError, what onnx and protobuf throw
        raise BackendError(
            f"--simplify: onnxsim {release} fails on this model: {first_line(error)}\nleave --simplify out"
        ) from error
    after = ir.from_proto(proto)
    return save(after, signature, path), Simplification(release, before, _nodes(after))


def _nodes(model: ir.Model) -> int:
    return sum(1 for _ in model.graph.all_nodes())
