#!/bin/sh
# Make a stand-in for python:3.11-slim out of Debian packages, where no container registry can be reached.
# Takes the packages from this machine's own apt sources and its extra certificate authorities along.
# Argument: the tag to give it.
set -eu
tag=${1:-flowparts-offline-base}
if [ "$(id -u)" -ne 0 ]; then
    echo "The stand-in for the Python image is made as root; run: sudo $0" >&2
    exit 1
fi
"$(dirname "$0")/../scripts/system-packages.sh" mmdebstrap:mmdebstrap
. /etc/os-release
work=$(mktemp -d)
trap 'rm -rf "$work" "$work.sources"' EXIT

mkdir -p "$work/etc" "$work/usr/bin" "$work/usr/local/share/ca-certificates"
cp -L /usr/local/share/ca-certificates/*.crt "$work/usr/local/share/ca-certificates/" 2>/dev/null || true
ln -s python3 "$work/usr/bin/python"
# Debian's pip trusts its own certificates unless told; an index of this machine's own is kept.
{
    echo "[global]"
    echo "cert = /etc/ssl/certs/ca-certificates.crt"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
} >"$work/etc/pip.conf"

# Without their comments: an official image's name the snapshot that it was made from, which isn't this one's.
mkdir "$work.sources"
set --
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    grep -v '^#' "$file" >"$work.sources/${file##*/}" || true
    set -- "$@" "$work.sources/${file##*/}"
done
# 47 MB of Perl come with usrmerge, which has done its work by then; the real image has neither.
mmdebstrap --quiet --variant=apt --include=python3,python3-venv,ca-certificates,usr-is-merged \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook='chroot "$1" apt-get purge -qq usrmerge "^libperl" "^perl-modules" >/dev/null' \
    --customize-hook="sync-in $work /" \
    --customize-hook='chroot "$1" update-ca-certificates' \
    --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
    "$VERSION_CODENAME" "$work.tar" "$@" >&2
docker import --change 'CMD ["python3"]' "$work.tar" "$tag"
rm -f "$work.tar"
