#!/bin/sh
# Programs that some tests run for real: an ssh server, a browser, an emulator of ARM processors, C++ compilers, Java, the
# packer of Android apps. What is missing is installed on Debian and its kin when this is run as root; elsewhere its
# name is printed, and the code is 1.
set -eu

has() {
    for program in "$@"; do
        if command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ]; then return 0; fi
    done
    return 1
}

missing=
has sshd || missing="$missing openssh-server"
has chromium chromium-browser google-chrome || missing="$missing chromium"
has qemu-aarch64-static || missing="$missing qemu-user-static"
has javac || missing="$missing openjdk-17-jdk-headless"
has aapt || missing="$missing aapt"
has g++ || missing="$missing g++"
has cmake || missing="$missing cmake"
has aarch64-linux-gnu-g++ || missing="$missing g++-aarch64-linux-gnu"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! has apt-get; then
    echo "error: some tests need programs that are not here; Debian's packages are called:$missing" >&2
    echo "install them (apt-get install$missing), or run \`make test\`, which leaves those tests out" >&2
    exit 1
fi

# The tests start their own sshd on loopback: installing it must not open this machine to logins.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get -q update
# shellcheck disable=SC2086 - a list of words
DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing
