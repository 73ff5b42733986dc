#!/usr/bin/env bash
# Installs what is missing, and only that: system tools through apt, then the Python environment in .venv.
#   .ci/setup.sh vet     what `make vet` needs
#   .ci/setup.sh test    that, and what the tests and checks need
#   .ci/setup.sh image   what `make image` and `make boot` need
# PYTHON names the interpreter (3.11 or newer). A second call with nothing changed does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind="${1:-vet}"
# An ordinary user's PATH lacks the folders where most of these tools live.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# command=package
vet_tools="smartctl=smartmontools stress-ng=stress-ng stressapptest=stressapptest fio=fio iperf3=iperf3
    nvme=nvme-cli ipmitool=ipmitool ethtool=ethtool lspci=pciutils dmidecode=dmidecode lsblk=util-linux
    unshare=util-linux setpriv=util-linux wipefs=util-linux ip=iproute2 sg_persist=sg3-utils"
test_tools="chromium=chromium gcc=gcc g++=g++ sshd=openssh-server ssh=openssh-client ssh-keygen=openssh-client nft=nftables
    openssl=openssl mkfs.ext4=e2fsprogs mkfs.vfat=dosfstools losetup=mount cpio=cpio ipmi_sim=openipmi dnsmasq=dnsmasq-base dhcpd=isc-dhcp-server
    kea-dhcp4=kea-dhcp4-server grub-script-check=grub-common ledctl=ledmon"
image_tools="mmdebstrap=mmdebstrap mksquashfs=squashfs-tools unsquashfs=squashfs-tools depmod=kmod cpio=cpio xz=xz-utils
    git=git mkfs.vfat=dosfstools mkfs.ext4=e2fsprogs cryptsetup=cryptsetup-bin pvcreate=lvm2
    qemu-system-x86_64=qemu-system-x86 dnsmasq=dnsmasq-base nbdkit=nbdkit swtpm=swtpm ipmi_sim=openipmi
    ssh=openssh-client ssh-keygen=openssh-client"
# path=package: these bring no command
image_files="/usr/lib/ipxe/qemu/pxe-virtio.rom=ipxe-qemu /usr/share/OVMF/OVMF_CODE_4M.fd=ovmf
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
    /usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-python-plugin.so=nbdkit-plugin-python"
# Services that Debian's packages would switch on; nobody who runs this asked for a daemon.
services="smartmontools=smartmontools.service lvm2=lvm2-monitor.service openssh-server=ssh.service nftables=nftables.service
    isc-dhcp-server=isc-dhcp-server.service kea-dhcp4-server=kea-dhcp4-server.service ledmon=ledmon.service"

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

missing_packages() {
    local wanted="$vet_tools" pair
    [ "$kind" = test ] && wanted="$wanted $test_tools"
    [ "$kind" = image ] && wanted="$wanted $image_tools"
    for pair in $wanted; do
        command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"
    done
    if ! ldconfig -p 2>/dev/null | grep -q 'libiperf\.so'; then echo libiperf0; fi
    if [ "$kind" = image ]; then
        for pair in $image_files; do
            if [ ! -e "${pair%%=*}" ]; then echo "${pair#*=}"; fi
        done
    fi
    if [ "$kind" = test ] && [ ! -e /usr/include/stdlib.h ]; then echo libc6-dev; fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || [ -t 0 ]
}

install_packages() {
    say "installing: $*"
    # 101: "action forbidden by policy". Packages are installed, their daemons are not started.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        made=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    local status=0
    apt_install "$@" || status=$?
    if [ -n "$made" ]; then as_root rm -f "$policy"; fi
    [ "$status" = 0 ] || fail "apt could not install: $*"
    disable_services "$@"
}

apt_install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
    as_root "${apt[@]}" update >/dev/null || say "the package lists could not be renewed; trying with the old ones"
    as_root "${apt[@]}" install --no-install-recommends "$@" </dev/null
}

disable_services() {
    local package pair
    [ -d /run/systemd/system ] || return 0
    for package in "$@"; do
        for pair in $services; do
            if [ "${pair%%=*}" = "$package" ]; then as_root systemctl disable --quiet "${pair#*=}" || true; fi
        done
    done
}

require_packages() {
    local packages
    packages="$(missing_packages | sort -u | tr '\n' ' ')"
    [ -n "${packages// /}" ] || return 0
    may_install || fail "missing on this machine: $packages- as root: apt-get install $packages"
    # shellcheck disable=SC2086  # a list of package names
    install_packages $packages
}

is_usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

can_make_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

find_python() {
    local candidate path
    for candidate in ${PYTHON:-/usr/bin/python3 python3 python3.13 python3.12 python3.11}; do
        path="$(command -v "$candidate" || true)"
        if [ -n "$path" ] && is_usable "$path"; then
            echo "$path"
            return
        fi
    done
    return 1
}

require_python() {
    python="$(find_python || true)"
    if [ -z "$python" ] && [ -z "${PYTHON:-}" ]; then
        may_install || fail "Python 3.11 or newer is missing - as root: apt-get install python3 python3-venv"
        install_packages python3 python3-venv
        python="$(find_python || true)"
    fi
    [ -n "$python" ] || fail "Python 3.11 or newer is missing${PYTHON:+: $PYTHON is none}"
    can_make_environments "$python" && return
    may_install || fail "Python's venv module is missing - as root: apt-get install python3-venv"
    install_packages python3-venv
    can_make_environments "$python" || fail "$python cannot make environments: it lacks ensurepip"
}

has_nvidia() {
    grep -qsx 0x10de /sys/bus/pci/devices/*/vendor
}

fingerprint() {
    { cat pyproject.toml constraints.txt; pwd; echo "$1"; } | sha256sum | cut -d' ' -f1
}

require_environment() {
    local vet=orchestrator,gpu image=orchestrator,gpu,kernels extras stamp=".venv/.setup-$kind" want
    if has_nvidia; then vet="$image"; fi # its load is compiled at first use
    case "$kind" in
        vet) extras="$vet" ;;
        image) extras="$image" ;;
        test) extras="$image,dev" ;;
    esac
    want="$(fingerprint "$extras")"
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && is_usable .venv/bin/python; then
        return 0
    fi
    require_python
    if ! { [ -x .venv/bin/python ] && is_usable .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
        say "making .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    say "installing the Python environment"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --use-pep517 --editable ".[$extras]" \
        --constraint constraints.txt || fail "pip could not install the environment"
    # An environment holds all that the smaller ones need, which must not be made again over it.
    echo "$want" >"$stamp"
    if [ "$kind" != vet ]; then fingerprint "$vet" >.venv/.setup-vet; fi
    if [ "$kind" = test ]; then fingerprint "$image" >.venv/.setup-image; fi
}

case "$kind" in
    vet | test | image) ;;
    *) fail "usage: .ci/setup.sh vet|test|image" ;;
esac
# Two of these at once would trip over each other in .venv.
exec 9<pyproject.toml
flock 9
require_packages
require_environment
