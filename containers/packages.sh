#!/bin/sh
# Install Debian packages as they were when the base image was made, so that the same tree gives the same image.
# Debian's images name that moment in their sources, beside the addresses that move on; other images have none.
# Arguments: the packages.
set -eu
for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    awk '/^# https?:\/\/[^ ]*\/archive\// { then = $2 } /^URIs:/ && then { $0 = "URIs: " then; then = "" } { print }' \
        "$file" >/tmp/sources
    cat /tmp/sources >"$file"
done
rm -f /tmp/sources
export DEBIAN_FRONTEND=noninteractive
# Lists of an earlier moment are past their date.
apt-get update -qq -o Acquire::Check-Valid-Until=false
apt-get install -y -qq --no-install-recommends "$@" >/dev/null
