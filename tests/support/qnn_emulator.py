"""Runs a file in Qualcomm's emulator of its NPU; for the Python of an environment with onnxruntime-qnn.

python qnn_emulator.py MODEL.onnx INPUTS.npz OUTPUTS.npz

INPUTS has the model's inputs by name; OUTPUTS gets its outputs and `providers`, one name per node run. Anything that
the NPU does not take is an error.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_qnn

NAME = "QNNExecutionProvider"


def main(model: str, given: str, wanted: str) -> None:
    """Compile, run once, save."""
    onnxruntime.register_execution_provider_library(NAME, onnxruntime_qnn.get_library_path())
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == NAME][:1]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(devices, {"backend_path": onnxruntime_qnn.get_qnn_htp_path()})
    with tempfile.TemporaryDirectory() as folder, np.load(given) as inputs:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(model, options)
        names = [output.name for output in session.get_outputs()]
        found = session.run(names, {name: inputs[name] for name in inputs.files})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [e["args"]["provider"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    np.savez(wanted, providers=np.array(ran), **dict(zip(names, found, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
