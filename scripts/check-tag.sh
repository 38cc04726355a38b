#!/usr/bin/env bash
# Fail unless a release's tag names the version of the package, so that images, pipelines and wheel agree.
# Argument: the tag, such as v0.1.0.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:?usage: scripts/check-tag.sh TAG, such as v0.1.0}
file=src/flowparts/__init__.py
version=$(sed -nE 's/^__version__ = "([^"]+)"$/\1/p' "$file")
if [ "v$version" != "$tag" ]; then
    echo "error: tag $tag is not the version in $file, $version; change that file, or tag v$version" >&2
    exit 1
fi
