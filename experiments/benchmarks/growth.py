"""How things grow. Nothing is run; programs are compiled for shapes alone.

    python experiments/benchmarks/growth.py [--deep 40 --tokens 2048 8192 18480 32760]

Compile time of one velocity against depth, and working memory of attention (forward, and with gradient) against
tokens.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp

from mwjax.models.attention import attention
from mwjax.models.shapes import world_shapes
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldModel, input_shapes

SHALLOW = 4  # layers
CLIP = (21, 44, 80)  # latents of 81 frames at 352×640
TOKENS = (2048, 8192, 18480, 32760)


def half(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def compile_seconds(layers: int) -> float:
    """One velocity of the T2W model at 352×640 with another depth."""
    config = VARIANTS["1.3B"].world("controlnet")
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, num_layers=layers))
    model = WorldModel(config)
    params = jax.tree.map(lambda a: half(*a.shape), world_shapes(config))
    inputs = {name: half(1, *shape) for name, shape in input_shapes(config, CLIP, 0).items()}

    def step(params, latents, inputs):
        condition = model.apply({"params": params}, inputs, method="condition")
        return model.apply({"params": params}, latents, jnp.full((1,), 500.0), condition)[0]

    lowered = jax.jit(step).lower(params, half(1, *CLIP, config.backbone.out_dim), inputs)
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def total(q, k, v):
    return attention(q, k, v).astype(jnp.float32).sum()


def attention_gigabytes(tokens: int, *, gradient: bool) -> float:
    """Temporaries of self-attention with 12 heads of 128, bfloat16."""
    function = jax.grad(total, (0, 1, 2)) if gradient else attention
    array = half(1, tokens, 12, 128)
    return jax.jit(function).lower(array, array, array).compile().memory_analysis().temp_size_in_bytes / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep", type=int, default=40, help="layers of the deeper model (default: %(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    args = parser.parse_args()
    compile_seconds(2)  # warm up
    shallow, deep = (min(compile_seconds(layers) for _ in range(3)) for layers in (SHALLOW, args.deep))
    print(
        f"compile time: {SHALLOW} layers {shallow:.2f} s, {args.deep} layers {deep:.2f} s, ratio {deep / shallow:.2f}"
    )
    print("| tokens | attention, forward | with gradient |\n|---|---|---|")
    for tokens in args.tokens:
        forward, backward = (attention_gigabytes(tokens, gradient=gradient) for gradient in (False, True))
        print(f"| {tokens} | {forward:.2f} GB | {backward:.2f} GB |")


if __name__ == "__main__":
    main()
