"""The probes: each opens one library and says what it can do here. `backends.run_probe` gives each its process.

Targets bring those of their own libraries.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pkgutil import resolve_name
from types import MappingProxyType

from cmexport.targets.info import Finding

MARK = "cmexport-finding "


def _probe_torch() -> Finding:
    torch = importlib.import_module("torch")
    found = [f"CPU, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        found += [f"CUDA: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("MPS")
    return Finding("works", "; ".join(found))


def _probe_onnxruntime() -> Finding:
    onnx = importlib.import_module("onnx")
    onnxruntime = importlib.import_module("onnxruntime")
    providers = list(onnxruntime.get_available_providers())
    # Listing providers does not load a kernel; running one node does.
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    numpy = importlib.import_module("numpy")
    (y,) = session.run(None, {"x": numpy.ones(1, numpy.float32)})
    if float(y[0]) != 1.0:
        return Finding("broken", f"a graph that copies 1.0 returned {float(y[0])}")
    return Finding("works", ", ".join(p.removesuffix("ExecutionProvider") for p in providers))


def _probe_openvino() -> Finding:
    openvino = importlib.import_module("openvino")
    devices = list(openvino.Core().available_devices)
    if not devices:
        return Finding("broken", "no device found, not even the CPU")
    return Finding("works", "devices: " + ", ".join(devices))


def _probe_qnn() -> Finding:
    onnxruntime = importlib.import_module("onnxruntime")
    qnn = importlib.import_module("onnxruntime_qnn")
    onnxruntime.register_execution_provider_library("qnn", qnn.get_library_path())
    kinds = sorted({str(d.device.type).rsplit(".", 1)[-1] for d in onnxruntime.get_ep_devices() if "QNN" in d.ep_name})
    if not kinds:
        return Finding("limited", "plug-in loads; no Qualcomm device here")
    return Finding("works", "devices: " + ", ".join(kinds))


def _probe_diffusers() -> Finding:
    importlib.import_module("diffusers").ConsistencyModelPipeline  # noqa: B018  (loads lazily: this is the import)
    return Finding("works", "reads ConsistencyModelPipeline folders")


def _probe_onnxsim() -> Finding:
    onnx = importlib.import_module("onnx")
    onnxsim = importlib.import_module("onnxsim")
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    nodes = [onnx.helper.make_node(kind, ["x"], [result]) for kind, result in (("Neg", "y"), ("Abs", "unread"))]
    graph = onnx.helper.make_graph(nodes, "probe", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    found, _ = onnxsim.simplify(model, certify=False)
    # A node whose result nobody reads is the least that it takes away.
    if any(node.op_type == "Abs" for node in found.graph.node):
        return Finding("broken", "left a node that nothing reads")
    return Finding("works", "takes away what nothing reads")


PROBES: Mapping[str, Callable[[], Finding]] = MappingProxyType(
    {
        "torch": _probe_torch,
        "onnxruntime": _probe_onnxruntime,
        "openvino": _probe_openvino,
        "qnn": _probe_qnn,
        "diffusers": _probe_diffusers,
        "onnxsim": _probe_onnxsim,
    }
)


def probe_main(name: str) -> None:
    """Run one probe in this process and print its finding as one marked line of JSON."""
    try:
        finding = resolve_name(name)() if ":" in name else PROBES[name]()
    except Exception as error:  # whatever a foreign library throws is the finding
        lines = str(error).strip().splitlines()
        finding = Finding("broken", f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__)
    print(f"\n{MARK}{json.dumps(asdict(finding))}", flush=True)
