#!/bin/sh
# Install a lock into a new environment at /opt/flowparts, with bytecode and without what no step reads.
# Runs in the build stage of every image; the final stage copies the environment over its parent's.
# Argument: the folder of the image, with its requirements.in and requirements.txt.
set -eu
python3 -m venv --without-pip /opt/flowparts
python3 -m venv /opt/pip
/opt/pip/bin/pip --python /opt/flowparts/bin/python install --quiet --disable-pip-version-check --no-cache-dir \
    --no-compile --no-deps --require-hashes -r "$1/requirements.txt"

cd /opt/flowparts/lib/python3*/site-packages
# Tests, type stubs and sources to compile against.
find . -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' \) -delete
# Polars comes with the symbols of its Rust code, a fifth of its size.
if ls _polars_runtime*/*.so >/dev/null 2>&1; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null
    strip --strip-unneeded _polars_runtime*/*.so polars_hash/*.so
fi
# Unchecked: files keep their bytecode whatever time a copy stamps on them.
/opt/flowparts/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
# What `python -m flowparts.selfcheck` holds the image to.
mkdir /opt/flowparts/promises
cp "$1/requirements.in" "/opt/flowparts/promises/$(basename "$1").in"
