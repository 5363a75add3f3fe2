#!/usr/bin/env bash
# Run a command on an emulated aarch64, in this checkout, with the wheels that a board would get:
#
#   tests/aarch64.sh python3 -m pytest benchmarks/ --tier smoke --model resnet20
#
# QEMU translates each program; the kernel starts it for all that is aarch64 (binfmt_misc), child processes too. It takes root, uv,
# and Debian's qemu-user-static, mmdebstrap and arch-test; what is missing is said, and is red. Only the checkout is seen there,
# read-only, and no network. What it writes goes to $PLUMBLINE_RUNS (here: runs/) and to a cache of its own. The root (300 MB)
# and the wheels (6 GB, most of it CUDA, without which torch does not load) are made once for each set of versions and kept
# in the cache folder. docs/devices.md
set -euo pipefail
refuse() { echo "tests/aarch64.sh: $*" >&2; exit 2; }
tell() { printf 'aarch64, %4d s: %s\n' "$SECONDS" "$*" >&2; }

[ $# -gt 0 ] || refuse "expected a command, got none, as: tests/aarch64.sh python3 -m pytest benchmarks/ --tier smoke --model resnet20"
[ "$(id -u)" -eq 0 ] || refuse "expected root, which mounts and chroot need, got user $(id -un)"
for tool in qemu-aarch64-static mmdebstrap arch-test uv; do
  command -v "$tool" >/dev/null || refuse "expected $tool on the PATH, found none; apt-get install qemu-user-static mmdebstrap arch-test; pip install uv"
done
checkout=$(cd "$(dirname "$0")/.." && pwd)
caches=${XDG_CACHE_HOME:-$HOME/.cache}/plumbline
kept=$caches/aarch64
runs=${PLUMBLINE_RUNS:-$checkout/runs}
mkdir -p "$kept" "$runs"

binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount -t binfmt_misc none $binfmt || refuse "expected a kernel with binfmt_misc, and the right to mount it"
# The package's own line; where systemd runs it has been registered already. F: the interpreter is found from within the root, too
[ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register || refuse "expected to register QEMU in $binfmt"

key() { sha256sum | cut -c 1-12; }
made() { # FOLDER COMMAND...: make a folder by a command that gets its name as the last argument, unless it is there
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  rm -rf "$folder.part"
  tell "making $(basename "$folder")"
  "$@" "$folder.part" || { rm -rf "$folder.part"; refuse "expected $folder to be made, got the error above"; }
  mv "$folder.part" "$folder"
}
packages=python3,python3-dev,gcc,libc6-dev
debian=(mmdebstrap --quiet --architectures=arm64 --variant=extract --include="$packages" bookworm)
root=$kept/root-$(key <<<"${debian[*]}")
exec 9>"$kept/lock"
flock 9 # two at once make everything once
made "$root" "${debian[@]}"
cd "$checkout"
wheels=(uv pip install --quiet --no-config --only-binary ":all:" --python-platform aarch64-manylinux_2_28 --python-version 3.11
  --constraint constraints.txt --requirement pyproject.toml hypothesis jsonschema pytest-xdist --target)
site=$kept/wheels-$({ echo "${wheels[*]}"; cat constraints.txt pyproject.toml; } | key)
made "$site" "${wheels[@]}"

# What Linux shows of two Cortex-A76 (Raspberry Pi 5; Orin's A78AE has the same instructions). QEMU before 8.2 shows its host's
# /proc/cpuinfo, and the host's /sys, by which torch 2.15 crashes.
export QEMU_CPU=cortex-a76
shown=$kept/cortex-a76
cpus=$shown/sys/devices/system/cpu
mkdir -p "$cpus"
echo 0-1 | tee "$cpus/possible" "$cpus/present" >"$cpus/online"
for cpu in 0 1; do
  mkdir -p "$cpus/cpu$cpu/regs/identification" "$cpus/cpu$cpu/topology"
  echo 0x00000000414fd0b1 >"$cpus/cpu$cpu/regs/identification/midr_el1"
  echo $cpu | tee "$cpus/cpu$cpu/topology/core_id" >"$cpus/cpu$cpu/topology/core_cpus_list"
  printf 'processor\t: %d\nBogoMIPS\t: 100.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' $cpu \
    "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
  printf 'CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done >"$shown/cpuinfo"
flock -u 9

# Weights that were trained on this machine itself are read there: to train takes minutes under emulation
mkdir -p "$caches/training" "$kept/cache/plumbline/training" "$root"/{proc,sys,dev,tmp,cache,runs,wheels} "$root$checkout"
# shellcheck disable=SC2329 # it is called by name
inside() {
  mount --bind "$checkout" "$root$checkout" && mount -o remount,bind,ro "$root$checkout"
  mount --bind "$site" "$root/wheels"
  mount --bind "$kept/cache" "$root/cache"
  mount --bind "$caches/training" "$root/cache/plumbline/training"
  mount -o remount,bind,ro "$root/cache/plumbline/training"
  mount --bind "$runs" "$root/runs"
  mount -t proc proc "$root/proc"
  mount --bind "$shown/cpuinfo" "$root/proc/cpuinfo"
  mount --bind "$shown/sys" "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
}
enter='import os, sys; os.chdir(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])'
tell "$*"
export -f inside
export root site kept caches runs shown checkout
code=0
unshare --mount --net --pid --fork --kill-child bash -euc 'inside; exec "$@"' bash \
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 QEMU_CPU="$QEMU_CPU" PYTHONPATH="/wheels:$checkout/src" \
  PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/cache PLUMBLINE_RUNS=/runs \
  chroot "$root" python3 -c "$enter" "$checkout" "$@" || code=$?
tell "ended with code $code"
exit $code
