#!/usr/bin/env bash
# Make a folder in which Python, NumPy and LiteRT for 64-bit Arm run under qemu:
#   tools/arm.sh FOLDER PYTHON
# Packages of Debian and wheels are unpacked there; nothing is installed. PYTHON has pip.
# Where this is impossible, one line says why and the exit code is 1.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=$2
wanted=$(grep -E '^(numpy|ai-edge-litert)==' "$top/constraints.txt")
[ "$(cat "$folder/ready" 2>/dev/null)" = "$wanted" ] && exit 0

impossible() { echo "no Arm here: $1" >&2; exit 1; }
[ "$(uname -sm)" = "Linux x86_64" ] || impossible "this is $(uname -sm), not Linux on x86-64"
command -v apt-get dpkg >/dev/null || impossible "there is no apt-get, dpkg"
sources=/etc/apt/sources.list.d/debian.sources
[ -f "$sources" ] || impossible "there is no $sources with Debian's packages for Arm"

rm -rf "$folder"/{apt,root,qemu,wheels,site}
mkdir -p "$folder"/{root,qemu,wheels,site,apt/lists/partial,apt/cache/archives/partial}
: >"$folder/apt/status"
# The qemu of Debian 12 crashes on these programs; that of its backports does not.
sed -E 's/^Suites: bookworm( .*)?$/& bookworm-backports/' "$sources" >"$folder/apt/debian.sources"

# apt-get of one architecture, with lists and a state of its own.
apt() {
  local architecture=$1; shift
  apt-get -qq -y -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" \
    -o "Dir::State=$folder/apt" -o "Dir::State::lists=$folder/apt/lists" \
    -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt/cache" \
    -o "Dir::Etc::sourcelist=$folder/apt/debian.sources" -o Dir::Etc::sourceparts=- \
    -o "APT::Sandbox::User=$(id -un)" -o Debug::NoLocking=1 -o APT::Install-Recommends=false \
    "$@" >"$folder/apt/log" 2>&1 || impossible "apt-get $1 failed: $(tail -n 1 "$folder/apt/log")"
}
apt arm64 update
apt arm64 --download-only install python3 libstdc++6
for package in "$folder"/apt/cache/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
rm -f "$folder"/apt/cache/archives/*.deb
apt amd64 update
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
[ "$release" = bookworm ] && release=bookworm-backports
apt amd64 --download-only -t "$release" install qemu-user
for package in "$folder"/apt/cache/archives/qemu-user_*.deb; do dpkg -x "$package" "$folder/qemu"; done
find "$folder/qemu" -type f ! -name qemu-aarch64 -delete

interpreter=$(basename "$(readlink "$folder/root/usr/bin/python3")")
platforms=(--platform manylinux2014_aarch64)
for glibc in 17 24 26 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
# shellcheck disable=SC2086
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${interpreter#python}" \
  "${platforms[@]}" -d "$folder/wheels" $wanted >"$folder/apt/log" 2>&1 ||
  impossible "pip download failed: $(tail -n 1 "$folder/apt/log")"
for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site"; done
rm -rf "$folder"/{apt,wheels}
printf '#!/bin/sh\nPYTHONPATH=%q exec %q -cpu cortex-a76 -L %q %q "$@"\n' "$folder/site" \
  "$folder/qemu/usr/bin/qemu-aarch64" "$folder/root" "$folder/root/usr/bin/$interpreter" \
  >"$folder/python"
chmod +x "$folder/python"
machine=$("$folder/python" -c 'import platform; print(platform.machine())') || impossible "qemu does not run Python"
[ "$machine" = aarch64 ] || impossible "qemu runs $machine"
echo "$wanted" >"$folder/ready"
