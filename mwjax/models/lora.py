"""Low-rank adapters (Hu et al. 2021) of the backbone's linear layers, as a tree beside the parameters.

An adapter {down [.., in, r], up [.., r, out], alpha [..]} sits where its layer sits; Dense applies it when the tree is
given as the collection "lora", and `merge` folds it into the weights: W + scale · (alpha / r) · down up.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


def layers(backbone: dict) -> dict[tuple[str, ...], Any]:
    """Kernels that take an adapter: every linear layer; the patch embedding is a convolution."""
    flat = flatten_dict(backbone)
    return {path[:-1]: kernel for path, kernel in flat.items() if path[-1] == "kernel" and path[0] != "patch_embedding"}


def init(backbone: dict, rank: int, alpha: float, rng: jax.Array) -> dict:
    """Adapters that change nothing yet: `down` uniform as in the original (Kaiming, a = √5), `up` zero."""
    out = {}
    for index, (path, kernel) in enumerate(sorted(layers(backbone).items())):
        *stack, fan_in, fan_out = kernel.shape
        bound = fan_in**-0.5
        out[*path, "down"] = jax.random.uniform(
            jax.random.fold_in(rng, index), (*stack, fan_in, rank), jnp.float32, -bound, bound
        )
        out[*path, "up"] = jnp.zeros((*stack, rank, fan_out), jnp.float32)
        out[*path, "alpha"] = jnp.full(stack, alpha, jnp.float32)
    return unflatten_dict(out)


def fold(kernel, down, up, alpha, scale: float):
    """One (stack of) kernel with `scale` times its adapter folded in."""
    return kernel + (scale * jnp.asarray(alpha, jnp.float32) / down.shape[-1])[..., None, None] * (down @ up)


def fold_frozen(frozen: dict[str, Any]) -> dict[str, Any]:
    """Frozen variables {path: array} with the adapters among them summed into their kernels, once for all steps,
    where they lie. Kernels in half precision keep their adapters beside them: the sum would be rounded."""
    adapters = [path for path in frozen if path.startswith("lora/") and path.endswith("/down")]
    names = [path.removeprefix("lora/").removesuffix("/down") for path in adapters]
    kernels = {name: f"params/{name}/kernel" for name in names}
    if not names or any(frozen[kernel].dtype != jnp.float32 for kernel in kernels.values()):
        return frozen

    @functools.partial(jax.jit, out_shardings={kernel: frozen[kernel].sharding for kernel in kernels.values()})
    def sums(frozen):
        def folded(name):
            down, up, alpha = (frozen[f"lora/{name}/{part}"] for part in ("down", "up", "alpha"))
            return fold(frozen[kernels[name]], down, up, alpha, 1.0)

        return {kernel: folded(name) for name, kernel in kernels.items()}

    return {path: leaf for path, leaf in frozen.items() if not path.startswith("lora/")} | sums(frozen)


def merge(backbone: dict, adapters: dict, scale: float) -> dict:
    """The backbone with `scale` times the adapters folded into its kernels (scale 0 leaves it as it is)."""
    flat, low = flatten_dict(backbone), flatten_dict(adapters)
    for path in {p[:-1] for p in low}:
        kernel, adapter = flat[*path, "kernel"], (low[*path, name] for name in ("down", "up", "alpha"))
        flat[*path, "kernel"] = fold(kernel, *adapter, scale).astype(kernel.dtype)
    return unflatten_dict(flat)


def scaled(adapters: dict, scale: float) -> dict:
    """The adapters with their strength multiplied by `scale`."""
    return unflatten_dict(
        {path: leaf * scale if path[-1] == "alpha" else leaf for path, leaf in flatten_dict(adapters).items()}
    )
