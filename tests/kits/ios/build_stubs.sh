#!/bin/sh
# Compiles the modules of stubs/ into libraries, in Swift's root: build_stubs.sh STUBS OUT ONNXRUNTIME, the last a
# libonnxruntime.so. Each module is as a system's: `import CoreML` finds and links it by -I and -L alone.
set -eu
stubs=$1 out=$2
cp "$3" "$out/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$out/libonnxruntime.so"
cp "$stubs"/COrt/* "$out"
for module in CoreVideo CoreGraphics CryptoKit Darwin Accelerate CoreML SwiftUI; do
    [ -n "$(ls "$stubs/$module"/*.swift 2>/dev/null)" ] || continue
    [ "$module" = CoreML ] && more=-lonnxruntime || more=
    # shellcheck disable=SC2086 - a word or nothing
    swiftc -O -wmo -swift-version 6 -warnings-as-errors -parse-as-library -emit-library -emit-module -module-name "$module" \
        -module-link-name "$module" -emit-module-path "$out/$module.swiftmodule" -o "$out/lib$module.so" -I"$out" \
        -L"$out" $more "$stubs/$module"/*.swift
done
