"""How things grow: python experiments/benchmarks/growth.py. Nothing is run; programs are compiled for shapes alone.

Compile time of one sampling step against depth, and working memory of attention (forward, and with gradient) against tokens.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp

from converters.shapes import world_shapes
from mwjax.models.attention import attention
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldModel

TOKENS = (2048, 8192, 18480, 32760)


def compile_seconds(layers: int) -> float:
    """One velocity of the T2W model at 352×640 with another depth."""
    cfg = VARIANTS["1.3B"].world("controlnet")
    cfg = dataclasses.replace(cfg, backbone=dataclasses.replace(cfg.backbone, num_layers=layers))
    model, spec = WorldModel(cfg), lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    params = jax.tree.map(lambda a: spec(*a.shape), world_shapes(cfg))

    def step(params, x, text, keyboard, mouse):
        condition = model.apply({"params": params}, text, keyboard, mouse, method="condition")
        return model.apply({"params": params}, x, jnp.full((1,), 500.0), condition)[0]

    lowered = jax.jit(step).lower(params, spec(1, 21, 44, 80, 16), spec(1, 512, 4096), spec(1, 81, 7), spec(1, 81, 2))
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began


def attention_gigabytes(tokens: int, gradient: bool) -> float:
    """Temporaries of self-attention with 12 heads of 128, bfloat16."""
    x = jax.ShapeDtypeStruct((1, tokens, 12, 128), jnp.bfloat16)
    function = jax.grad(lambda q, k, v: attention(q, k, v).astype(jnp.float32).sum(), (0, 1, 2)) if gradient else attention
    return jax.jit(function).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes / 1e9


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    compile_seconds(2)  # warm up
    shallow, deep = (min(compile_seconds(n) for _ in range(3)) for n in (4, 40))
    print(f"compile time: 4 layers {shallow:.2f} s, 40 layers {deep:.2f} s, ratio {deep / shallow:.2f}")
    print("| tokens | attention, forward | with gradient |\n|---|---|---|")
    for tokens in TOKENS:
        print(f"| {tokens} | {attention_gigabytes(tokens, False):.2f} GB | {attention_gigabytes(tokens, True):.2f} GB |")


if __name__ == "__main__":
    main()
