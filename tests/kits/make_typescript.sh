#!/bin/sh
# Installs the TypeScript compiler and the types of onnxruntime-web, which tests/kits/web/ checks the kit with:
#   sh tests/kits/make_typescript.sh FOLDER && export CMEXPORT_TYPESCRIPT=FOLDER
# `make system` does that with build/typescript. No install script runs. 180 MB on disk.
set -eu
root=${1:?usage: make_typescript.sh FOLDER}
if [ -x "$root/node_modules/.bin/tsc" ]; then exit 0; fi
if ! command -v npm >/dev/null 2>&1; then
    echo "note: npm is not here: tests that check types of the web kit are left out" >&2
    exit 0
fi
mkdir -p "$root"
# The release of onnxruntime-web is that of bench_device/web/vendor.json (tests/kits/web/test_package.py compares).
npm install --prefix "$root" --ignore-scripts --no-audit --no-fund --silent \
    typescript@7.0.2 onnxruntime-web@1.30.0 @types/node@24.10.1
