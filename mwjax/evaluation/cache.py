"""Measurements are kept on disk, each in a file of its own: what is there is never made again."""

import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable

import jax
import numpy as np

from mwjax.data.files import write_whole
from mwjax.evaluation.metric import Values

VERSION = 1  # of the measurements; values of another one are made again


def identity(weights) -> str:
    """A hash that tells networks apart, from a part of every tensor."""
    digest = hashlib.sha1()
    for leaf in jax.tree.leaves(weights):
        flat = leaf.reshape(-1) if hasattr(leaf, "reshape") else np.array([hash(leaf)])
        digest.update(np.asarray(flat[:: max(1, flat.size // 64)]).tobytes())
    return digest.hexdigest()


def fingerprint(path: pathlib.Path) -> str:
    """Tells a file from another one, or from itself before it was written again."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def cached(path: pathlib.Path, key: dict, make: Callable[[], dict]) -> Values:
    """Values of `make()`, kept in a file: what is there under the same key is not made again."""
    text = json.dumps(key | {"version": VERSION}, sort_keys=True)
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) == text:
                return {name: file[name] for name in file.files if name != "key"}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    values = {name: np.asarray(value) for name, value in make().items()}
    content = io.BytesIO()
    np.savez(content, key=np.array(text), **values)
    write_whole(path, content.getvalue())
    return values
