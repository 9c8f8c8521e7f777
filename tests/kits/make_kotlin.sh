#!/bin/sh
# Makes a folder with a Kotlin compiler, Android's classes and ONNX Runtime's Java interface, for tests/kits/android, on
# Debian or Ubuntu with JDK 17 or newer:
#   sh tests/kits/make_kotlin.sh FOLDER && export CMEXPORT_KOTLIN_ROOT=FOLDER
# `make system` does that with build/kotlin. Needs npm, pip and apt; installs nothing on the system, no root needed.
# 440 MB are downloaded, 98 MB kept.
set -eu
root=${1:?usage: make_kotlin.sh FOLDER}
if [ -f "$root/complete-1" ]; then exit 0; fi
mkdir -p "$root"
root=$(cd "$root" && pwd)
work=$root/work
rm -rf "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/debs" "$root/jars"
cd "$work"

# The compiler with its standard library; ONNX Runtime 1.29 for Android, whose classes are what code is checked against;
# ONNX Runtime 1.17 with libraries for Linux, which runs it: no registry here has a newer one, it lies in a search
# engine's jar.
npm pack --silent kotlin-compiler@2.4.20 com.github.asus4.onnxruntime@0.4.9 >/dev/null
python3 -m pip download -q --no-deps --only-binary=:all: pyserini==0.40.0

# Android's classes (API 23) and its JSON are in Debian 11, the last that had them.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | sed -n \
    -e 's/^URIs: *\([^ ]*debian\)\/* *$/\1/p' -e 's/^deb \(\[[^]]*\] \)*\([^ ]*debian\)\/* .*/\2/p' | head -1)
: "${mirror:?no mirror of Debian among the sources of apt}"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" >bullseye.list
apt() {
    apt-get -q -oDir::Etc::SourceList="$work/bullseye.list" -oDir::Etc::SourceParts=/dev/null \
        -oDir::State::Lists="$work/apt/lists" -oDir::Cache="$work/apt/cache" -oDir::State::status=/dev/null \
        -oAPT::Sandbox::User=root "$@"
}
apt update
(cd debs && apt download libandroid-23-java=6.0.1+r72-6 libandroid-json-java=10.0.0+r36-1 junit4=4.13.1-2 \
    libhamcrest-java=1.3-9)

sha256sum --check --quiet <<EOF
c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f  kotlin-compiler-2.4.20.tgz
e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d  com.github.asus4.onnxruntime-0.4.9.tgz
fbda53e84dbded1b120055a900976c37d6a53cc841d518f40e2a8b00e454377f  pyserini-0.40.0-py3-none-any.whl
8af1b6df556971dda0a6da3536ea526a838e0c363afcdd454213d8bce94793e3  debs/libandroid-23-java_6.0.1+r72-6_all.deb
ec9df493b75f755eef1677ec9851b071e08400f3baee578cd6e4cbef840309e6  debs/libandroid-json-java_10.0.0+r36-1_all.deb
ae80e0468d10624bf4ced7eb1f1764b52955e0a4eba0f68712b86003250cc4a3  debs/junit4_4.13.1-2_all.deb
3509f81f2e05c9550599b4777c1157729e7f10c0dcf1a83e4f2ce62587d945d8  debs/libhamcrest-java_1.3-9_all.deb
EOF

tar -xzf kotlin-compiler-2.4.20.tgz
for jar in kotlin-compiler kotlin-stdlib kotlin-script-runtime kotlin-reflect kotlinx-coroutines-core-jvm \
    annotations-13.0; do
    cp "package/lib/$jar.jar" "$root/jars/"
done
rm -rf package
tar -xzf com.github.asus4.onnxruntime-0.4.9.tgz package/Plugins/Android/onnxruntime.aar
for deb in debs/*.deb; do dpkg -x "$deb" "$work/unpacked"; done
java=$work/unpacked/usr/share/java
cp "$java/com.android.android-23.jar" "$root/jars/android-23.jar"
cp "$java/com.android.json-android-10.0.0.jar" "$root/jars/android-json.jar"
cp "$java/junit4.jar" "$root/jars/junit4.jar"
cp "$java/hamcrest-core-1.3.jar" "$root/jars/hamcrest-core.jar"
python3 - "$root/jars" <<'EOF'
"""Take ONNX Runtime's classes, and its libraries for this kind of Linux, out of their archives."""
import pathlib
import platform
import sys
import zipfile

jars = pathlib.Path(sys.argv[1])
machine = {"x86_64": "x64", "aarch64": "aarch64"}[platform.machine()]
with zipfile.ZipFile("package/Plugins/Android/onnxruntime.aar") as aar:
    (jars / "onnxruntime-android-1.29.jar").write_bytes(aar.read("classes.jar"))
with zipfile.ZipFile("pyserini-0.40.0-py3-none-any.whl") as wheel:
    (name,) = (name for name in wheel.namelist() if name.endswith("-fatjar.jar"))
    wheel.extract(name)
native = "ai/onnxruntime/native/"
slim = zipfile.ZipFile(jars / "onnxruntime-linux-1.17.jar", "w", zipfile.ZIP_DEFLATED)
with zipfile.ZipFile(name) as fat, slim:
    for entry in fat.namelist():
        other = entry.startswith(native) and not entry.startswith(f"{native}linux-{machine}/")
        if entry.startswith("ai/onnxruntime/") and not entry.endswith("/") and not other:
            slim.writestr(entry, fat.read(entry))
EOF
cd "$root"
rm -rf "$work"
touch "$root/complete-1"
