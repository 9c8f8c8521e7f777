"""Execution providers: which form of the graph each runs best, and the session options that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cmexport.errors import UsageError

OPSET = 20


@dataclass(frozen=True)
class ProviderProfile:
    """How to shape a graph for one execution provider.

    Attributes:
        provider: ONNX Runtime's name for it.
        contrib_ops: whether operators of the com.microsoft domain may be used. Only ONNX Runtime's own CPU and CUDA
            kernels have them; a file for another provider must be plain ONNX or the graph falls apart at its border.
        npu: whether whole numbers want one step per tensor and a pair around every operation.
        signed: 8-bit activations are int8, which ARM's and most NPUs' kernels want; x86's want uint8.
        options: provider options to pass when opening a session.
        note: what to know when using the file there.
        buffers: most inputs and outputs that a node may have together; None: any number.
    """

    provider: str
    contrib_ops: bool = False
    npu: bool = False
    signed: bool = False
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""
    buffers: int | None = None

    @property
    def own_kernels(self) -> bool:
        """Whether ONNX Runtime's own CPU kernels run the file, in their own layouts."""
        return self.provider == "CPUExecutionProvider"

    def session(self, ep: str, opset: int = OPSET) -> dict[str, Any]:
        """The manifest's record of how the file wants to be opened."""
        return {
            "ep": ep,
            "providers": [self.provider],
            "provider_options": [dict(self.options)],
            # Measured on the demo model: EXTENDED costs 1.37x, spinning off 1.16x; everything else is noise.
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "opset": opset,
            "contrib_ops": self.contrib_ops,
        }


PROFILES: Mapping[str, ProviderProfile] = MappingProxyType(
    {
        "cpu": ProviderProfile("CPUExecutionProvider", contrib_ops=True),
        "cuda": ProviderProfile("CUDAExecutionProvider", contrib_ops=True),
        "openvino": ProviderProfile(
            "OpenVINOExecutionProvider",
            # bf16 on AMX: 0.38-0.43 of naive fp32 at 61 dB, better than any int8 file there. The provider wants the
            # JSON text itself, not a path, and falls back to the CPU provider with only a log line otherwise.
            options={
                "device_type": "CPU",
                "load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}',
            },
            note="bf16 needs AMX or AVX512-BF16 to be faster; drop load_config for float32 arithmetic",
        ),
        "arm": ProviderProfile("CPUExecutionProvider", signed=True),
        # WebAssembly and WebGPU. In WebGPU contrib operators score 32 dB (SwiftShader) where plain ones score 139.
        "web": ProviderProfile("CPUExecutionProvider", buffers=8),
        "xnnpack": ProviderProfile("XnnpackExecutionProvider", signed=True),
        "qnn": ProviderProfile("QNNExecutionProvider", npu=True, note="docs/quantization.md, Snapdragon NPUs"),
        "coreml": ProviderProfile("CoreMLExecutionProvider", options={"ModelFormat": "MLProgram"}),
        "nnapi": ProviderProfile("NnapiExecutionProvider"),
    }
)


def profile_for(ep: str) -> ProviderProfile:
    """The profile named by `--ep`.

    Raises:
        UsageError: unknown name.
    """
    if ep not in PROFILES:
        raise UsageError(f"--ep {ep}: unknown execution provider; known: {', '.join(PROFILES)}")
    return PROFILES[ep]
