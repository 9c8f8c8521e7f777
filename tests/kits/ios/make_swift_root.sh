#!/bin/sh
# Makes a folder with a Swift compiler, SwiftPM and XCTest for tests/kits/ios, on Debian, x86-64:
#   sh tests/kits/ios/make_swift_root.sh FOLDER && export CMEXPORT_SWIFT_ROOT=FOLDER
# `make system` does that with build/swift. FOLDER/run [OUTSIDE=NAME ...] -- COMMAND runs a command in it.
# Installs nothing on the system, no root needed. 2 min, 550 MB to download, 1.1 GB on disk.
set -eu
root=${1:?usage: make_swift_root.sh FOLDER}
if [ "$(uname -sm)" != "Linux x86_64" ]; then exit 0; fi
if [ -x "$root/run" ] && "$root/run" -- swiftc --version >/dev/null 2>&1; then exit 0; fi
# Swift is in Debian 13 and wants its libc (2.38): with an empty status file apt fetches all that a package needs, and it
# is unpacked beside the system's own.
keys=/usr/share/keyrings/debian-archive-keyring.gpg
if [ ! -f "$keys" ] || ! command -v apt-get >/dev/null; then
    echo "note: Swift comes from Debian's packages, and this is another system: tests with it are left out" >&2
    exit 0
fi
# shellcheck disable=SC2016 - apt's own
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)
rm -rf "$root"
mkdir -p "$root"
root=$(cd "$root" && pwd)
mkdir -p "$root/apt/lists/partial" "$root/apt/cache/archives/partial" "$root/root"

echo "deb [signed-by=$keys] $site trixie main" >"$root/apt/sources.list"
apt() {
    apt-get -q -oAPT::Architecture=amd64 -oAPT::Architectures=amd64 -oDir::Etc::sourcelist="$root/apt/sources.list" \
        -oDir::Etc::sourceparts=/dev/null -oDir::State::Lists="$root/apt/lists" -oDir::Cache="$root/apt/cache" \
        -oDir::State::status=/dev/null -oAPT::Sandbox::User= "$@"
}
apt update
apt install -y --no-install-recommends --download-only swiftlang libc6-dev libstdc++-14-dev base-files coreutils dash
cd "$root/apt/cache/archives"
# ONNX Runtime's C header; the library is that of the Python package, to which this older interface is known as well.
apt download libonnxruntime-dev
# Left out: the debugger, the language server, Swift for microcontrollers and for static programs, GCC's compiler.
swift=usr/libexec/swift
cat >"$root/left-out" <<EOT
./usr/share/doc
./usr/share/man
./usr/share/locale
./usr/libexec/gcc
./usr/bin/*lto-dump*
./usr/lib/python3*
./usr/lib/*/libpython3*
./usr/lib/*/lib[almtu]*san.so*
./usr/lib/*/libhwasan.so*
./usr/lib/*/libonnxruntime*
./$swift/bin/clangd
./$swift/bin/docc
./$swift/bin/lldb*
./$swift/bin/sourcekit-lsp
./$swift/bin/swift-format
./$swift/lib/libLTO*
./$swift/lib/liblldb*
./$swift/lib/libsourcekitdInProc*
./$swift/lib/swift/FrameworkABIBaseline
./$swift/lib/swift/embedded
./$swift/lib/swift_static
EOT
# base-files first: its links from /lib to /usr/lib are what the others' files follow.
for package in base-files_*.deb [!b]*.deb b[!a]*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root/root" --keep-directory-symlink -X "$root/left-out"
done
ldconfig -r "$root/root"

cat >"$root/run" <<'EOT'
#!/bin/sh
# run [OUTSIDE=NAME ...] -- COMMAND...: runs a command in here; the system's folder or file OUTSIDE is seen as /mnt/NAME.
# The mounts are in a namespace of their own and end with the command.
set -eu
root=$(cd "$(dirname "$0")" && pwd)/root
[ "$(id -u)" = 0 ] && user= || user=--map-root-user
# shellcheck disable=SC2016,SC2086 - for the inner shell; nothing or one word
exec unshare $user --mount sh -eu -c '
    root=$1
    shift
    mount --rbind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    # Places to mount on are made here, so that the folder itself stays as it is.
    mount -t tmpfs places "$root/mnt"
    while [ "$1" != -- ]; do
        place=$root/mnt/${1#*=}
        if [ -d "${1%=*}" ]; then mkdir -p "$place"; else mkdir -p "${place%/*}" && : >"$place"; fi
        mount --bind "${1%=*}" "$place"
        shift
    done
    shift
    exec chroot "$root" /usr/bin/env -i PATH=/usr/libexec/swift/bin:/usr/bin HOME=/tmp LANG=C.UTF-8 "$@"
' run "$root" "$@"
EOT
chmod +x "$root/run"
mkdir -p "$root/root/mnt"
cd /
rm -rf "$root/apt" "$root/left-out"
if ! "$root/run" -- swiftc --version; then
    rm -rf "$root"
    echo "note: Swift doesn't run here (it needs mount namespaces): tests with it are left out" >&2
fi
