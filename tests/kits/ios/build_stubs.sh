#!/bin/sh
# Compiles the modules of stubs/ into libraries, in Swift's root: build_stubs.sh STUBS OUT ONNXRUNTIME, the last a
# libonnxruntime.so. Each module is as a system's: `import CoreML` finds and links it by -I and -L alone.
set -eu
stubs=$1 out=$2
cp "$3" "$out/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$out/libonnxruntime.so"
cp "$stubs"/COrt/* "$out"
mkdir "$out/darwin"
for module in CoreVideo CoreGraphics CryptoKit CoreML SwiftUI Accelerate Darwin; do
    # Apart, for what asks for it: SwiftPM's tests take a system that has Darwin for a Mac.
    [ "$module" = Darwin ] && into=$out/darwin || into=$out
    [ "$module" = CoreML ] && more=-lonnxruntime || more=
    # shellcheck disable=SC2086 - a word or nothing
    swiftc -O -wmo -swift-version 6 -warnings-as-errors -parse-as-library -emit-library -emit-module \
        -module-name "$module" -module-link-name "$module" -emit-module-path "$into/$module.swiftmodule" \
        -o "$into/lib$module.so" -I"$out" -L"$out" $more "$stubs/$module"/*.swift
done
