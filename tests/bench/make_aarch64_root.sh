#!/bin/sh
# Makes a folder with an ARM Python, NumPy and ONNX Runtime for tests/bench/test_aarch64.py, on Debian or Ubuntu:
#   sh tests/bench/make_aarch64_root.sh FOLDER && export CMEXPORT_AARCH64_ROOT=FOLDER
# `make system` does that with build/aarch64. Needs qemu-user-static, apt and pip; installs nothing on the system, no root
# needed. 11 s, 142 MB.
set -eu
root=${1:?usage: make_aarch64_root.sh FOLDER}
if [ -x "$root/python" ] && "$root/python" -c "import onnxruntime" 2>/dev/null; then exit 0; fi
mkdir -p "$root"
root=$(cd "$root" && pwd)
mkdir -p "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/debs" "$root/wheels" "$root/site"
apt() {
    apt-get -q -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$root/apt/lists" \
        -oDir::Cache="$root/apt/cache" -oDir::State::status=/dev/null "$@"
}
cd "$root/debs"
apt update
python=$(apt-cache -oAPT::Architecture=arm64 -oDir::State::Lists="$root/apt/lists" depends python3-minimal |
    sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal/\1/p' | head -1)
apt download "$python-minimal" "lib$python-minimal" "lib$python-stdlib" libc6 zlib1g libexpat1 libffi8 libstdc++6 \
    libgcc-s1 libbz2-1.0 liblzma5 libuuid1
for package in *.deb; do dpkg -x "$package" "$root"; done
# ONNX Runtime 1.31 dies under qemu 7.2 while it looks for the processor's caches; 1.24.1 does not.
python3 -m pip download -q --no-deps -d "$root/wheels" --python-version "${python#python}" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    "numpy<2.4" onnxruntime==1.24.1
for wheel in "$root"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root/site"; done
cat > "$root/python" <<EOF
#!/bin/sh
exec qemu-aarch64-static -cpu cortex-a76 -L "$root" -E PYTHONHOME="$root/usr" -E PYTHONPATH="$root/site" \\
    -E LD_LIBRARY_PATH="$root/usr/lib/aarch64-linux-gnu:$root/lib/aarch64-linux-gnu" "$root/usr/bin/$python" "\$@"
EOF
chmod +x "$root/python"
cd "$root"
rm -rf "$root/apt" "$root/debs" "$root/wheels"
"$root/python" -c "import platform, onnxruntime; print(platform.machine(), onnxruntime.__version__)"
