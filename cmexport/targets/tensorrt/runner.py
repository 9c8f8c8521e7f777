"""Run an engine on the GPU in this machine, with PyTorch's CUDA memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from cmexport.errors import BackendError
from cmexport.runner import Array
from cmexport.targets.tensorrt.header import read_header
from cmexport.targets.tensorrt.library import Library


def gpu_title() -> str | None:
    """The GPU that PyTorch sees, "NVIDIA H100 (9.0)", or None."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} ({major}.{minor})"


class EngineRunner:
    """An engine, loaded, with its input and output buffers on the GPU.

    Args:
        library: the TensorRT that built it, or one it is compatible with.
        path: the engine.
        weights_from: for an engine built with --strip, the typed ONNX file its weights come from.
        graph: record the work once and replay it: a CUDA graph, which saves the launch of each kernel.
        any_version: the engine was built to be loaded by other versions too (`--compat version`).

    Raises:
        CheckpointError: the file is missing, or is no engine.
        BackendError: there is no GPU, PyTorch can't use it, or the library refuses the engine: built for another GPU or
            by another version.
    """

    def __init__(
        self,
        library: Library,
        path: Path,
        weights_from: Path | None = None,
        *,
        graph: bool = True,
        any_version: bool = False,
    ) -> None:
        check_engine(library, path, any_version=any_version)
        gpu = gpu_title()
        if gpu is None:
            raise BackendError(f"{path}: an engine runs on an NVIDIA GPU, with a PyTorch for CUDA; there is none here")
        self._trt = library.module
        self._messages: list[str] = []
        self._log = _collecting_log(library, self._messages)
        self._runtime: Any = self._trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = False
        self._engine: Any = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BackendError(f"{path}: {refusal(self._messages, library, gpu)}")
        if weights_from is not None:
            self._refit(library, weights_from)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"{path}: {library.title} can't set it up on {gpu}: {_last(self._messages)}")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._inputs: dict[str, torch.Tensor] = {}
        self._outputs: dict[str, torch.Tensor] = {}
        for index in range(self._engine.num_io_tensors):
            self._make_buffer(self._engine.get_tensor_name(index))
        self._replay: torch.cuda.CUDAGraph | None = None
        self._wants_graph = graph

    def _make_buffer(self, name: str) -> None:
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        shape = tuple(self._engine.get_tensor_shape(name))
        buffer = torch.zeros(shape, dtype=getattr(torch, kind.name), device="cuda")
        is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        (self._inputs if is_input else self._outputs)[name] = buffer
        self._context.set_tensor_address(name, buffer.data_ptr())

    def _refit(self, library: Library, onnx_file: Path) -> None:
        refitter = self._trt.Refitter(self._engine, self._log)
        parser = self._trt.OnnxParserRefitter(refitter, self._log)
        if not parser.refit_from_file(str(onnx_file)) or not refitter.refit_cuda_engine():
            raise BackendError(f"{onnx_file}: {library.title} can't take the weights from it: {_last(self._messages)}")

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine once on named arrays."""
        with torch.cuda.stream(self._stream):
            for name, buffer in self._inputs.items():
                buffer.copy_(torch.from_numpy(np.ascontiguousarray(inputs[name])))
        self._stream.synchronize()
        self.execute()
        self._stream.synchronize()
        return {name: buffer.cpu().numpy() for name, buffer in self._outputs.items()}

    def execute(self) -> None:
        """Queue one run on the inputs that lie on the GPU already, for timing; it returns before the run ends.

        Raises:
            BackendError: the engine fails.
        """
        if self._replay is None:
            with torch.cuda.stream(self._stream):
                self._queue()
            if self._wants_graph:
                self._record()
        else:
            with torch.cuda.stream(self._stream):
                self._replay.replay()

    def _queue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BackendError(f"TensorRT failed while running: {_last(self._messages)}")

    def _record(self) -> None:
        """After a first run, which may still allocate; an engine whose work can't be recorded runs without."""
        self._stream.synchronize()
        if not getattr(self._context, "is_stream_capturable", lambda _: True)(self._stream.cuda_stream):
            self._wants_graph = False
            return
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=self._stream):
            self._queue()
        self._replay = recorded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replay = self._context = self._engine = self._runtime = None
        self._inputs, self._outputs = {}, {}


def check_engine(library: Library, path: Path, *, any_version: bool = False) -> None:
    """Refuse from an engine's header what the library would refuse with less to say; needs no GPU, but sees one.

    Raises:
        CheckpointError: it is missing, damaged, or no engine.
        BackendError: another TensorRT made it, or it is not for the GPU in this machine.
    """
    header = read_header(path)
    if header.rtx != library.rtx:
        made = "TensorRT for RTX" if header.rtx else "TensorRT 10 or 11"
        raise BackendError(f"{path}: made by {made}, and this is {library.title}; choose with --trt, or export again")
    if header.version is not None and header.version != library.version and not any_version:
        raise BackendError(
            f"{path}: made by TensorRT for RTX {header.version}, and this is {library.version}; "
            "export again with this one, or install that one"
        )
    if header.sms is not None and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if 10 * major + minor not in header.sms:
            made = ", ".join(f"{sm // 10}.{sm % 10}" for sm in header.sms)
            raise BackendError(
                f"{path}: not for this machine's {gpu_title()}, only for compute capability {made}; "
                "export again with its --sm"
            )


def describe_loaded(library: Library, path: Path) -> str:
    """The engine inspector's description of an engine that this machine's GPU can load; errors as `EngineRunner`."""
    with EngineRunner(library, path, graph=False) as run:
        trt = library.module
        described = run._engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE)
        return str(described)


def refusal(messages: list[str], library: Library, gpu: str) -> str:
    """Why an engine was refused, from what the library logged: a sentence on what to do."""
    said = " ".join(messages)
    if any(word in said for word in ("ompute capability", "nsupported CC", "ifferent device", "ifferent model of")):
        return f"not built for this GPU, {gpu}; export again with its --sm, or on this machine"
    if any(word in said for word in ("ersion tag", "ersion mismatch", "erialization version", "older version")):
        return f"built by another version than {library.title}; export again with this one, or add --compat version"
    if any(word in said for word in ("agic tag", "orrupt", "malformed", "ismatched size", "erialization assertion")):
        return "damaged, or no engine of this kind of TensorRT; export the model again"
    if "driver version is insufficient" in said:
        return f"{library.title} needs a newer NVIDIA driver than this machine has"
    return f"{library.title} refuses it on {gpu}: {_last(messages)}"


def _collecting_log(library: Library, messages: list[str]) -> Any:
    base: Any = library.module.ILogger

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.Severity.ERROR, base.Severity.INTERNAL_ERROR):
                messages.append(message)

    return Log()


def _last(messages: list[str]) -> str:
    return messages[-1].strip().splitlines()[0][:300] if messages else "it gave no reason"
