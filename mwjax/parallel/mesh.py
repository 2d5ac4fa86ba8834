"""The mesh of devices."""

import dataclasses
import math
import warnings

import jax
from jax.sharding import AxisType, Mesh

from mwjax.errors import InputError
from mwjax.parallel.sharding import AXES


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one of them may be -1 and takes what is left. See parallel/sharding.py."""

    data: int = 1
    fsdp: int = -1
    sequence: int = 1
    tensor: int = 1

    def sizes(self, devices: int) -> tuple[int, int, int, int]:
        """Sizes that multiply to `devices`, or an InputError."""
        sizes = [getattr(self, axis) for axis in AXES]
        text = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise InputError(f"mesh {text}: sizes are at least 1, and one of them may be -1")
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and devices % known == 0:
            sizes[sizes.index(-1)] = devices // known
        if math.prod(sizes) != devices:
            advice = f"give one axis -1, or start {known} devices"
            raise InputError(f"mesh {text} does not multiply to the {devices} devices that are here; {advice}")
        return tuple(sizes)


def make_mesh(shape: MeshShape, devices: list | None = None) -> Mesh:
    """A mesh over `devices` (default: all)."""
    devices = jax.devices() if devices is None else devices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about devices without coordinates
        return jax.make_mesh(shape.sizes(len(devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def one_device() -> Mesh:
    """The mesh of the first device alone."""
    return make_mesh(MeshShape(), jax.devices()[:1])


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
