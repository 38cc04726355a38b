"""The store from which clusters download models; a local model is copied there once, under its digest.

A cluster can't read a laptop's files. FLOWPARTS_MODEL_STORE of the step's environment names a place for both:
s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, or pvc://CLAIM/FOLDER with FLOWPARTS_MODEL_STORE_PATH, the path where
this machine has that folder of the volume mounted.
"""

import logging
import os
import shutil
from pathlib import Path

from flowparts import models
from flowparts.deploy import common
from flowparts.register import registry
from flowparts.util import sources, trees
from flowparts.util.masking import masked
from flowparts.util.shortening import shorten

STORE = "FLOWPARTS_MODEL_STORE"
MOUNT = "FLOWPARTS_MODEL_STORE_PATH"
# Copied last: a directory without it is incomplete.
_LAST = "MLmodel"

_log = logging.getLogger("flowparts")


def stored(model: str) -> str:
    """Return a URI from which a cluster can download a model, after copying a local one there.

    Args:
        model: A path or a URI; URIs other than file:// are returned unchanged.

    Raises:
        ValueError: There is no model at the path, or the store is invalid or can't be written.
    """
    path, store = sources.local_path(model), os.environ.get(STORE, "").rstrip("/")
    if path is None or not store:
        return model
    models.metadata(path)
    address = f"{store}/{registry.fingerprint(path)}"
    scheme = address.partition("://")[0]
    if scheme == "oci":
        raise ValueError(
            f"{STORE} can't be a registry of images ({store}): pods fetch models from buckets and volumes; "
            "give s3://, gs:// or pvc://"
        )
    if scheme not in ("s3", "gs", "pvc"):
        raise ValueError(f"{STORE} must start with s3://, gs:// or pvc://, not {store!r}")
    if common.dry_run() is not None:
        return address
    copied = _to_volume(path, address) if scheme == "pvc" else _to_bucket(path, address)
    _log.info("the model is %s %s", "copied to" if copied else "already at", address)
    return address


def _to_volume(path: str, address: str) -> bool:
    mount = os.environ.get(MOUNT, "")
    if not Path(mount).is_dir() or not mount:
        raise ValueError(
            f"{STORE} is on a volume, so {MOUNT} must be the path at which it is mounted here, not {mount!r}"
        )
    target = Path(mount) / address.rpartition("/")[2]
    if target.exists():
        return False
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        trees.copy(path, part)
        part.rename(target)
    except OSError as error:
        if not target.exists():  # otherwise another step was first
            raise ValueError(f"the model can't be copied to {target}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _to_bucket(path: str, address: str) -> bool:
    scheme, _, root = address.partition("://")
    names = {file.relative_to(path).as_posix(): file for file in trees.files(path)}
    sizes = {name: file.stat().st_size for name, file in names.items()}
    # The client libraries have no common base class of errors; the user gets one sentence for any.
    try:
        bucket = sources.filesystem(scheme)
        found = {
            name.removeprefix(f"{root}/"): entry["size"]
            for name, entry in bucket.find(root, detail=True).items()
        }
        if _LAST not in found:
            for name in sorted(names, key=lambda name: name == _LAST):
                bucket.put_file(str(names[name]), f"{root}/{name}")
            return True
    except Exception as error:
        raise ValueError(
            f"the model can't be copied to {address}; may this step write there, and is the server up? "
            f"({type(error).__name__}: {shorten(str(masked(' '.join(str(error).split()))), 200)})"
        ) from None
    if found != sizes:
        raise ValueError(f"{address} holds other files than the model of that digest; remove them")
    return False
