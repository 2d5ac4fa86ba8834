"""Learning-rate schedules, clipping and AdamW, as PyTorch computes them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


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


def adamw(schedule: Callable, *, weight_decay: float, clip: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Clipping, then AdamW (Loshchilov & Hutter 2019); every trainable parameter is decayed, as in the original."""
    return optax.chain(clip_by_global_norm(clip), optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))
