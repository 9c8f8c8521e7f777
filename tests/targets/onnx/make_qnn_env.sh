#!/bin/sh
# Makes an environment with Qualcomm's plug-in for ONNX Runtime for tests/targets/onnx/test_qnn_emulator.py:
#   sh tests/targets/onnx/make_qnn_env.sh FOLDER && export CMEXPORT_QNN_ENV=FOLDER
# `make system` does that with build/qnn. On x86-64 Linux the plug-in emulates the NPU; elsewhere nothing is made. Its own
# environment, since the licence is Qualcomm's and its ONNX Runtime may not be ours. 20 s, 99 MB to download, 500 on disk.
set -eu
root=${1:?usage: make_qnn_env.sh FOLDER}
if [ "$(uname -sm)" != "Linux x86_64" ]; then exit 0; fi
if [ -x "$root/bin/python" ] && "$root/bin/python" -c "import onnxruntime_qnn" 2>/dev/null; then exit 0; fi
constraints=$(dirname "$0")/../../../constraints.txt
"${PYTHON:-python3}" -m venv "$root"
"$root/bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$constraints" \
    onnxruntime-qnn onnxruntime numpy
if ! "$root/bin/python" -c "import onnxruntime as o, onnxruntime_qnn as q
o.register_execution_provider_library('qnn', q.get_library_path())"; then
    rm -rf "$root"
    echo "note: Qualcomm's plug-in doesn't load here (it needs glibc 2.35): tests with its emulator are left out" >&2
fi
