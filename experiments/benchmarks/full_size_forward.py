"""One forward of the whole 1.3B T2W model with drawn weights: python experiments/benchmarks/full_size_forward.py [--frames 5 --height 64 --width 96].

bfloat16 weights and activations: 4.3 GB of weights, and float32 copies of them on a CPU. Prints parameters, time with and without compilation, and peak memory.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from converters.shapes import parameter_count, world_shapes
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldModel


def drawn(shapes: dict) -> dict:
    """Weights of the scale that a trained model has, in bfloat16."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(2**20, dtype=np.float32)

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
    cfg = VARIANTS["1.3B"].world("controlnet")
    shapes = world_shapes(cfg)
    params, model = drawn(shapes), WorldModel(cfg)
    rng = np.random.default_rng(1)
    half = lambda *shape: jnp.asarray(rng.standard_normal(shape, dtype=np.float32), jnp.bfloat16)
    latents = half(1, args.frames // 4 + 1, args.height // 8, args.width // 8, 16)
    text, keyboard, mouse = half(1, 20, 4096), half(1, args.frames, 7), half(1, args.frames, 2)

    @jax.jit
    def forward(params):
        condition = model.apply({"params": params}, text, keyboard, mouse, method="condition")
        return model.apply({"params": params}, latents, jnp.full((1,), 500.0), condition)[0]

    times = []
    for _ in range(3):
        began = time.perf_counter()
        velocity = np.asarray(forward(params), np.float32)
        times.append(time.perf_counter() - began)
    assert np.isfinite(velocity).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{parameter_count(shapes):,} parameters; velocity {velocity.shape}, deviation {velocity.std():.3f}; first call {times[0]:.1f} s, "
          f"then {min(times[1:]):.1f} s; peak memory {peak / 1e9:.1f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
