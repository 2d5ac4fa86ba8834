"""Golden files: where they are, how to read one, and the weights drawn from their names."""

import functools
import json
import os
import pathlib
import zlib

import numpy as np
import pytest
from safetensors import safe_open

GIVEN = os.environ.get("MWJAX_GOLDEN_DIR")
FOLDER = pathlib.Path(GIVEN or pathlib.Path(__file__).parent / "files")


def needs(*stems: str) -> pytest.MarkDecorator:
    """Mark of a test that reads these files: it is skipped where the directory given by MWJAX_GOLDEN_DIR lacks one.

    In the project's own directory a missing file is a failure. stems: without .safetensors; other names in full.
    """
    names = [stem if "." in stem else f"{stem}.safetensors" for stem in stems]
    lost = [name for name in names if not (FOLDER / name).exists()]
    return pytest.mark.skipif(bool(GIVEN and lost), reason=f"{FOLDER} has no {' and no '.join(lost)}")


def stems(*names: str) -> list:
    """Files as parameters of a test, each marked as `needs` does."""
    return [pytest.param(name, marks=needs(name), id=name) for name in names]


def weight_value(name: str, shape, seed: int, scale: float = 1.0) -> np.ndarray:
    """The value of a weight, as defined where the files were made."""
    noise = np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if name.endswith("gamma") or (len(shape) < 2 and name.endswith("weight")):
        return 1 + 0.1 * noise
    if len(shape) < 2:
        return 0.1 * noise
    fan_in = shape[-1] if name.endswith("modulation") else int(np.prod(shape[1:]))
    value = noise * np.float32(0.8 * scale / np.sqrt(max(fan_in, 1)))
    return np.abs(value) if name.startswith("lin") else value


class Case:
    """One golden file: metadata as attributes of `meta`, tensors by `case["in/x"]`."""

    def __init__(self, path: pathlib.Path):
        with safe_open(path, "np") as file:
            self.meta = {k: _parse(v) for k, v in file.metadata().items()}
            self.tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def weights(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Weights whose names begin with `prefix`, which is taken off."""
        shapes, seed, scale = self.meta["weights"], self.meta["weight_seed"], self.meta.get("weight_scale", 1.0)
        return {
            k.removeprefix(prefix): weight_value(k, s, seed, scale) for k, s in shapes.items() if k.startswith(prefix)
        }


def _parse(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@functools.cache
def case(stem: str) -> Case:
    return Case(FOLDER / f"{stem}.safetensors")


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def last(x: np.ndarray) -> np.ndarray:
    """[b, c, t, h, w] to [b, t, h, w, c]."""
    return np.moveaxis(x, 1, -1)
