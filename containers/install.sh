#!/bin/sh
# Install a lock into a new environment at /opt/flowparts, with bytecode and without what no step reads.
# Runs in the build stage of every image; the final stage copies the environment over its parent's.
# Arguments: the folder of the image, with its requirements, and its variant, if it has one.
# Without arguments: only get what an installation needs, the same for every image and so made once.
set -eu
if [ ! -d /opt/pip ]; then
    "$(dirname "$0")/packages.sh" binutils
    python3 -m venv /opt/pip
fi
[ $# -gt 0 ] || exit 0

name=requirements${2:+-$2}
python3 -m venv --without-pip /opt/flowparts
/opt/pip/bin/pip --python /opt/flowparts/bin/python install --quiet --disable-pip-version-check \
    --no-compile --no-deps --require-hashes -r "$1/$name.txt"

cd /opt/flowparts/lib/python3*/site-packages
# Tests, type stubs, and what only a compiler reads.
find . -type d \( -name tests -o -name include -o -path '*/backend/test' \) -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' \
    -o -name '*.a' -o -name '*.proto' \) -delete
# AWS has 400 services; steps read and write S3, deploy to SageMaker, and log in.
if [ -d botocore/data ]; then
    find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3*' ! -name 'sts' ! -name 'sso*' ! -name 'signin' \
        ! -name 'sagemaker*' ! -name 'cloudwatch' ! -name 'logs' ! -name 'iam' ! -name 'ecr' -exec rm -r {} +
    find botocore/data -name 'examples-*.json' -delete
fi
# The C library of ONNX Runtime; its Python module holds the same code.
rm -f onnxruntime/capi/libonnxruntime.so.*
# Symbols that only a debugger reads. Libraries that a wheel brings from elsewhere (*.libs) were patched for it, and
# strip breaks some of those.
find . -name '*.so' -not -path './*.libs/*' -exec strip --strip-unneeded {} +
# Unchecked: files keep their bytecode whatever time a copy stamps on them. Without the columns of each instruction,
# which only mark the place inside a line of a traceback, it is smaller and loads faster.
PYTHONNODEBUGRANGES=1 /opt/flowparts/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
# What `python -m flowparts.selfcheck` holds the image to.
mkdir /opt/flowparts/promises
cp "$1/$name.in" "/opt/flowparts/promises/$(basename "$1").in"
