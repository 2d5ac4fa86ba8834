"""TeaCache (Liu et al. 2024): leave the blocks out of steps whose timestep embedding has hardly changed.

The embedding depends on the timesteps alone, so which steps are computed is known before the first one.
"""

import jax
import jax.numpy as jnp

from mwjax.models.block import DiTConfig
from mwjax.types import Array, Bool, Float

# What a relative change of the time projection does to the blocks' output: polynomials, highest power first, by (width,
# image conditioning).
POLYNOMIALS = {
    (1536, False): (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),  # Wan2.1-T2V-1.3B
    (5120, True): (2.57151496e5, -3.54229917e4, 1.40286849e3, -1.35890334e1, 1.32517977e-1),  # Wan2.1-I2V-14B-480P
}


def polynomial(cfg: DiTConfig) -> tuple[float, ...] | None:
    """The published polynomial of a backbone, None if there is none."""
    return POLYNOMIALS.get((cfg.dim, cfg.image_dim > 0))


def computed_steps(
    projections: Float[Array, "steps 6 d"],
    coefficients: Float[Array, " k"],
    threshold: Float[Array, ""] | float,
    start: int,
) -> Bool[Array, " steps"]:
    """Which steps run the blocks: the first `start`, then each at which the estimated change, summed since the last
    computed one, reaches `threshold`."""
    before, after = projections[:-1], projections[1:]
    relative = jnp.abs(after - before).mean((1, 2)) / jnp.abs(before).mean((1, 2))
    change = jnp.concatenate([jnp.zeros(1), jnp.polyval(coefficients, relative)])

    def step(total, row):
        index, change = row
        total = total + change
        compute = (index < start) | (total >= threshold)
        return jnp.where(compute, 0.0, total), compute

    return jax.lax.scan(step, jnp.zeros(()), (jnp.arange(len(change)), change))[1]
