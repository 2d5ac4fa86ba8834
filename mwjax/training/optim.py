"""Learning-rate schedules, clipping and AdamW, as PyTorch computes them; Muon for training from nothing."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon


def constant_with_warmup(base: float, warmup: int, total: int) -> Callable:
    """Linear from 0 over `warmup` steps, then constant."""
    del total
    return lambda step: base * jnp.minimum(1.0, step / max(warmup, 1))


def cosine_with_restarts(base: float, warmup: int, total: int, cycles: int = 1) -> Callable:
    """Linear from 0 over `warmup` steps, then `cycles` half-cosines down to 0 at `total`."""

    def schedule(step):
        progress = (step - warmup) / max(total - warmup, 1)
        cosine = jnp.where(progress >= 1, 0.0, 0.5 * (1 + jnp.cos(jnp.pi * ((cycles * progress) % 1.0))))
        return base * jnp.where(step < warmup, step / max(warmup, 1), cosine)

    return schedule


SCHEDULES = {"constant": constant_with_warmup, "cosine": cosine_with_restarts}


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale gradients down to a joint norm of `limit`; torch's form, which divides by norm + 1e-6."""

    def update(updates, state, params=None):
        del params
        scale = jnp.minimum(1.0, limit / (optax.global_norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adamw(
    schedule: Callable,
    *,
    weight_decay: float,
    clip: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Clipping, then AdamW (Loshchilov & Hutter 2019); every trainable parameter is decayed, as in the original."""
    rule = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(clip_by_global_norm(clip), rule)


# Which parameters Muon orthogonalises, and whether their first axis counts layers; the others get Adam.
MUON = (
    (r".*(head|patch_embedding|modulation|bias|scale|gamma|alpha)", None),
    (r"params/(backbone|controlnet)/(blocks|after_proj)/|params/adaln/", 1),
    (r".*kernel$", 0),
    (r"lora/", None),
)


def muon_with_adam(
    schedule: Callable,
    *,
    weight_decay: float,
    clip: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for matrices and convolutions, AdamW for the rest: several times fewer steps from a
    random start."""

    def dimensions(params: dict) -> dict:
        out = {}
        for path, leaf in params.items():
            out[path] = None
            stacked = next((value for pattern, value in MUON if re.match(pattern, path)), None)
            if stacked is not None and leaf.ndim >= stacked + 2:
                inputs = tuple(range(stacked, leaf.ndim - 1))
                out[path] = MuonDimensionNumbers(reduction_axis=inputs, output_axis=leaf.ndim - 1)
        return out

    rule = muon(
        schedule,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        eps=eps,
        muon_weight_dimension_numbers=dimensions,
    )
    return optax.chain(clip_by_global_norm(clip), rule)


OPTIMIZERS = {"adamw": adamw, "muon": muon_with_adam}
