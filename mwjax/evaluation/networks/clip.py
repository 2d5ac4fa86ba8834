"""Image tower of CLIP (Radford et al. 2021) with the official key names. Source: OpenAI CLIP `clip/model.py`."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange

from mwjax.evaluation.networks.layers import Shapes, Weights, convolve
from mwjax.models.layers import layer_norm
from mwjax.types import Array, Float

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes; the defaults are ViT-B/32."""

    image_size: int = 224
    patch: int = 32
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    out_dim: int = 512


def shapes(cfg: CLIPConfig) -> Shapes:
    d, tokens = cfg.dim, (cfg.image_size // cfg.patch) ** 2 + 1
    out = {
        "class_embedding": (d,),
        "positional_embedding": (tokens, d),
        "proj": (d, cfg.out_dim),
        "conv1.weight": (d, 3, cfg.patch, cfg.patch),
    }
    norms = ["ln_pre", "ln_post"]
    for i in range(cfg.num_layers):
        block = f"transformer.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        out |= {f"{block}.attn.in_proj_weight": (3 * d, d), f"{block}.attn.in_proj_bias": (3 * d,)}
        for name, (outputs, inputs) in {
            "attn.out_proj": (d, d),
            "mlp.c_fc": (4 * d, d),
            "mlp.c_proj": (d, 4 * d),
        }.items():
            out |= {f"{block}.{name}.weight": (outputs, inputs), f"{block}.{name}.bias": (outputs,)}
    out |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    return {f"visual.{name}": shape for name, shape in out.items()}


def used(name: str) -> str | None:
    """The name, or None for tensors of the text tower."""
    return name if name.startswith("visual.") else None


def image_features(cfg: CLIPConfig, weights: Weights, pixels: Float[Array, "b size size 3"]) -> Float[Array, "b out"]:
    """Features of normalised pictures, not yet of unit length."""

    def linear(x, name, weight=".weight", bias=".bias"):
        return x @ weights[f"visual.{name}{weight}"].T + weights[f"visual.{name}{bias}"].reshape(
            (1,) * (x.ndim - 1) + (-1,)
        )

    def norm(x, name):
        return layer_norm(x, EPS) * weights[f"visual.{name}.weight"].reshape(1, 1, -1) + weights[
            f"visual.{name}.bias"
        ].reshape(1, 1, -1)

    x = rearrange(convolve(pixels, weights, "visual.conv1", stride=cfg.patch, padding=0), "b h w c -> b (h w) c")
    first = jnp.broadcast_to(weights["visual.class_embedding"].reshape(1, 1, -1), (len(x), 1, cfg.dim))
    x = norm(jnp.concatenate([first, x], 1) + weights["visual.positional_embedding"][None], "ln_pre")
    for i in range(cfg.num_layers):
        block = f"transformer.resblocks.{i}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.in_proj", "_weight", "_bias")
        q, k, v = (rearrange(a, "b l (n k) -> b n l k", n=cfg.num_heads) for a in jnp.split(qkv, 3, -1))
        mixed = jax.nn.softmax(jnp.einsum("bnlk,bnmk->bnlm", q, k) / (cfg.dim // cfg.num_heads) ** 0.5, -1)
        x = x + linear(
            rearrange(jnp.einsum("bnlm,bnmk->bnlk", mixed, v), "b n l k -> b l (n k)"), f"{block}.attn.out_proj"
        )
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(hidden * jax.nn.sigmoid(1.702 * hidden), f"{block}.mlp.c_proj")
    return norm(x[:, :1], "ln_post")[:, 0] @ weights["visual.proj"]
