"""One forward of the whole 1.3B T2W model with drawn weights.

    python experiments/benchmarks/full_size_forward.py [--frames 5 --height 64 --width 96]

bfloat16 weights and activations: 4.3 GB of weights, and float32 copies of them on a CPU. Prints parameters, time with
and without compilation, and peak memory.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.models.shapes import parameter_count, world_shapes
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldModel, input_shapes


def drawn(shapes: dict) -> dict:
    """Weights of the scale that a trained model has, in bfloat16."""
    noise = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)

    def leaf(a):
        scale = 0.8 / np.sqrt(a.shape[-2]) if a.ndim > 1 else 0.1
        return jnp.asarray((np.resize(noise, a.shape) * np.float32(scale)).astype(jnp.bfloat16))

    return jax.tree.map(leaf, shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    args = parser.parse_args()
    config = VARIANTS["1.3B"].world("controlnet")
    shapes = world_shapes(config)
    params = drawn(shapes)
    model = WorldModel(config)
    rng = np.random.default_rng(1)

    def half(*shape):
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32), jnp.bfloat16)

    clip = (args.frames // 4 + 1, args.height // 8, args.width // 8)
    latents = half(1, *clip, config.backbone.out_dim)
    inputs = {name: half(1, *shape) for name, shape in input_shapes(config, clip, 0).items()}

    @jax.jit
    def forward(params, latents, inputs):
        condition = model.apply({"params": params}, inputs, method="condition")
        return model.apply({"params": params}, latents, jnp.full((1,), 500.0), condition)[0]

    times = []
    for _ in range(3):
        began = time.perf_counter()
        velocity = np.asarray(forward(params, latents, inputs), np.float32)
        times.append(time.perf_counter() - began)
    assert np.isfinite(velocity).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{parameter_count(shapes):,} parameters; velocity {velocity.shape}, deviation {velocity.std():.3f}")
    print(f"first call {times[0]:.1f} s, then {min(times[1:]):.1f} s; peak memory {peak / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
