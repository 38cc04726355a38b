#!/bin/sh
# Make sure that a Docker engine answers: where none does, install Debian's and start it (as root).
set -eu
docker version >/dev/null 2>&1 && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "No Docker engine answers. Start one, or run this as root: sudo $0" >&2
    exit 1
fi
"$(dirname "$0")/system-packages.sh" dockerd:docker.io
# Newer Debian releases have the client in a package of its own.
command -v docker >/dev/null || "$(dirname "$0")/system-packages.sh" docker:docker-cli
# And what builds with BuildKit; there, the client is a package without it.
if ! DOCKER_BUILDKIT=1 docker build --help >/dev/null 2>&1 && apt-cache show docker-buildx >/dev/null 2>&1; then
    "$(dirname "$0")/system-packages.sh" docker-buildx:docker-buildx
fi
if [ -d /run/systemd/system ]; then
    systemctl start docker
elif ! docker version >/dev/null 2>&1; then
    # dockerd dials this socket wherever it exists, also one that a containerd which was killed left behind;
    # where there is none, it starts a containerd of its own.
    containerd=/run/containerd/containerd.sock
    if [ -S "$containerd" ] && ! ctr --connect-timeout 5s --address "$containerd" version >/dev/null 2>&1; then
        rm -f "$containerd"
    fi
    setsid nohup dockerd -H "${DOCKER_HOST:-unix:///var/run/docker.sock}" >/var/log/dockerd.log 2>&1 &
fi
for _ in $(seq 60); do
    docker version >/dev/null 2>&1 && exit 0
    sleep 1
done
echo "The Docker engine does not start; its last words:" >&2
tail -n 5 /var/log/dockerd.log >&2 || true
exit 1
