#!/bin/sh
# Start a container of one of the images in docker/ with what a measuring process needs.
#
#   docker/run [--cuda] [docker run's own options] IMAGE [COMMAND ...]
#
# --cuda gives it the GPUs, on a Jetson by the flags that it needs. No network; the volumes plumbline-cache and plumbline-runs are
# kept; the machine's lock is shared with whoever measures outside. Run it where docker's engine runs: it looks at this machine, and
# refuses an engine elsewhere ($DOCKER_HOST, or a context), whose lock, folders and GPUs it does not see.
# plumbline itself starts containers by this script, here and over ssh.
set -eu
command -v docker >/dev/null || { echo "docker: command not found" >&2; exit 127; }
engine=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)}
case $engine in
  unix://* | npipe://* | fd://* | tcp://127.0.0.1:* | tcp://localhost:*) ;;
  *://*)
    echo "docker: its engine is on another machine ($engine); measure by --target ssh:HOST/docker:IMAGE, or unset DOCKER_HOST" >&2
    exit 1
    ;;
esac
if [ "${1-}" = --cuda ]; then
  shift
  if [ -e /etc/nv_tegra_release ]; then # L4T: --gpus alone is refused
    # those who are not root may open the GPU as members of the group video
    set -- --runtime nvidia --group-add video --env NVIDIA_DRIVER_CAPABILITIES=all --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro "$@"
  else
    set -- --gpus all "$@"
  fi
fi
# what belongs to whoever asks can be read then; root stays outside
[ "$(id -u)" = 0 ] || set -- --user "$(id -u):$(id -g)" "$@"
lock=/run/lock/plumbline
mkdir -p "$lock" 2>/dev/null || lock=/tmp/plumbline-lock
mkdir -p "$lock"
chmod 0777 "$lock" 2>/dev/null || true # another user has made it
exec docker run --rm --interactive --init --pull never --network none --shm-size 1g --env "PLUMBLINE_LOCK=$lock/machine" \
  --volume "$lock:$lock" --volume plumbline-cache:/cache --volume plumbline-runs:/runs "$@"
