"""Where arrays lie on the mesh: one table for parameters, one for activations. Nothing here does anything without a
mesh.

Axes: `data` copies the weights, `fsdp` cuts them (both split the batch), `sequence` splits the tokens of every latent
frame, `tensor` splits heads and hidden features. The compiler (GSPMD) inserts the communication.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from mwjax.rules import first_match

AXES = ("data", "fsdp", "sequence", "tensor")

# Mesh axes of each name that models give to an axis of an activation.
ACTIVATIONS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "batch": ("data", "fsdp"),
    "tokens": ("sequence",),
    "heads": ("tensor",),
    "all heads": ("sequence", "tensor"),  # within self-attention, where every device needs all tokens
}

# Mesh axes of the last axes of each parameter (leading ones, such as layers, are whole). The first match wins.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r".*/(bias|scale|gamma|alpha|modulation|head_modulation|relative_bias)$", ()),
    (r".*action_encoder/", ()),  # small
    (r".*lora/.*/down$", ("fsdp", None)),
    (r".*lora/.*/up$", (None, "fsdp")),
    (r".*/(o|dense_1|fc2|proj|head)/kernel$", ("tensor", "fsdp")),  # back to the model's width
    (r".*(/kernel|_embedding)$", ("fsdp", "tensor")),
    (r".*", ()),
)


def fitted(axes: Sequence[tuple[str, ...]], shape: Sequence[int], mesh) -> PartitionSpec:
    """The axes as a PartitionSpec, without those that do not divide a dimension (a batch of one clip, three heads)."""
    entries = []
    for names, size in zip(axes, shape, strict=True):
        kept: tuple[str, ...] = ()
        for name in names:
            if size % (int(np.prod([mesh.shape[n] for n in kept])) * mesh.shape[name]) == 0:
                kept += (name,)
        entries.append(kept or None)
    return PartitionSpec(*entries)


def current_mesh():
    """The mesh of `jax.set_mesh`, None without one or with a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Lay an activation out by the names of its axes."""
    mesh = current_mesh()
    return (
        x
        if mesh is None
        else jax.lax.with_sharding_constraint(x, fitted([ACTIVATIONS[n] for n in names], x.shape, mesh))
    )


def locally(function: Callable, names: Sequence[Sequence[str | None]], *arrays: jax.Array) -> jax.Array:
    """function(*arrays) on every device's own part, cut along the named axes of each array. The result is cut as the
    first array is."""
    mesh = current_mesh()
    if mesh is None:
        return function(*arrays)
    specs = tuple(fitted([ACTIVATIONS[n] for n in axes], a.shape, mesh) for axes, a in zip(names, arrays, strict=True))
    return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def padded_heads(x: jax.Array, name: str) -> jax.Array:
    """Zero heads [..., n, k] added until they divide over the mesh: any number of heads runs on any mesh."""
    mesh = current_mesh()
    count = 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in ACTIVATIONS[name]]))
    return jax.numpy.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, -x.shape[-2] % count), (0, 0)])


def parameter_sharding(path: str, shape: Sequence[int], mesh) -> NamedSharding:
    """path: names joined by "/"."""
    last = first_match(PARAMETERS, path)[-len(shape) :] if shape else ()
    axes = [()] * (len(shape) - len(last)) + [(name,) if name else () for name in last]
    return NamedSharding(mesh, fitted(axes, shape, mesh))


def shardings(tree: Any, mesh) -> Any:
    """The sharding of every leaf of a nested or flat dict of arrays or shapes, by PARAMETERS."""
    flat = flatten_dict(tree, sep="/")
    named = {path: parameter_sharding(path, leaf.shape, mesh) for path, leaf in flat.items()}
    return named if any("/" in path for path in tree) else unflatten_dict(named, sep="/")


def like_parameters(tree: Any, parameters: Mapping[str, NamedSharding], mesh) -> Any:
    """Shardings of an optimizer's state: of a parameter where a leaf lies under its path with its rank, else on every
    device."""

    def one(path, leaf):
        for key in reversed(path):
            name = getattr(key, "key", None)
            if isinstance(name, str) and name in parameters and len(parameters[name].spec) == len(leaf.shape):
                return NamedSharding(
                    mesh,
                    fitted([(e,) if isinstance(e, str) else e or () for e in parameters[name].spec], leaf.shape, mesh),
                )
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(shape: Sequence[int], mesh) -> NamedSharding:
    """Batches are cut along their first axis."""
    return NamedSharding(mesh, fitted([ACTIVATIONS["batch"]] + [()] * (len(shape) - 1), shape, mesh))
