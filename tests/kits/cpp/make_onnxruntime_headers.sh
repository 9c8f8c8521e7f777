#!/bin/sh
# Puts ONNX Runtime's C and C++ headers into FOLDER for tests/kits/cpp:
#   sh tests/kits/cpp/make_onnxruntime_headers.sh FOLDER && export CMEXPORT_ONNXRUNTIME_HEADERS=FOLDER
# `make system` does that with build/onnxruntime-headers. Python's wheel brings the library without them; the plain C
# API only grows, so headers of 1.29 go with the wheel's library. Needs npm; downloads 155 MB, keeps 1.2 MB.
set -eu
folder=${1:?usage: make_onnxruntime_headers.sh FOLDER}
if [ -f "$folder/onnxruntime_cxx_api.h" ]; then exit 0; fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent com.github.asus4.onnxruntime@0.4.9 >/dev/null
tar xzf ./*.tgz
header=$(find . -name onnxruntime_cxx_api.h | head -1)
[ -n "$header" ] || { echo "error: the package holds no headers" >&2; exit 1; }
mv "$(dirname "$header")"/*.h "$folder/"
echo "ONNX Runtime's headers: $(ls "$folder" | grep -c '\.h$') files"
