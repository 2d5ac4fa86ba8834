"""CLIP ViT-H/14 image encoder, as Wan2.1 uses it: the tokens after all blocks but the last. Source: Wan2.1
`wan/modules/clip.py`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mwjax.models.attention import attention
from mwjax.models.layers import MLP, Dense, LayerNorm, Module, along, stacked_init
from mwjax.types import Array, Float

PIXEL_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
PIXEL_STD = np.float32([0.26862954, 0.26130258, 0.27577711])
CUBIC = -0.75  # coefficient of the cubic convolution kernel (Keys 1981), PyTorch's choice


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Sizes of the image encoder."""

    image_size: int = 224
    patch: int = 14
    dim: int = 1280
    mlp_ratio: int = 4
    out_dim: int = 1024  # of the head; 0: there is none
    num_heads: int = 16
    num_layers: int = 32
    eps: float = 1e-5

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch) ** 2 + 1


def cubic_weights(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Matrix of a bicubic resize of one axis without antialiasing; beyond the border the last pixel repeats."""
    centre = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((new_size, size))
    for offset in range(-1, 3):
        x = np.abs(centre - (first + offset))
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
        far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
        np.add.at(weights, (np.arange(new_size), np.clip(first + offset, 0, size - 1)), np.where(x <= 1, near, far))
    return weights.astype(np.float32)


def preprocess(images: Float[Array, "b h w 3"], size: int) -> Float[Array, "b size size 3"]:
    """Images in [-1, 1] of any shape, stretched to size × size and normalised."""
    rows, columns = cubic_weights(images.shape[1], size), cubic_weights(images.shape[2], size)
    images = jnp.einsum("yh,bhwc,xw->byxc", rows, images, columns, precision="highest") * 0.5 + 0.5
    return (images - along(PIXEL_MEAN, images)) / along(PIXEL_STD, images)


class ImageBlock(Module):
    config: ImageConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        cfg = self.config
        qkv = Dense(3 * cfg.dim, name="to_qkv")(LayerNorm(cfg.eps, name="norm1")(x))
        q, k, v = (rearrange(a, "b l (n k) -> b l n k", n=cfg.num_heads) for a in jnp.split(qkv, 3, -1))
        x = x + Dense(cfg.dim, name="proj")(rearrange(attention(q, k, v), "b l n k -> b l (n k)"))
        return x + MLP(cfg.mlp_ratio * cfg.dim, cfg.dim, name="mlp")(LayerNorm(cfg.eps, name="norm2")(x))


class ImageEncoder(Module):
    """Preprocessed images to tokens. The last block, the last norm and the head are part of the weights but never
    used."""

    config: ImageConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "b size size 3"]) -> Float[Array, "b l d"]:
        cfg = self.config
        normal = nn.initializers.normal(cfg.dim**-0.5)
        patches = rearrange(pixels, "b (h p) (w q) c -> b (h w) (p q c)", p=cfg.patch, q=cfg.patch)
        x = Dense(cfg.dim, use_bias=False, name="patch_embedding")(patches)
        first = self.param("cls_embedding", normal, (1, 1, cfg.dim))
        x = jnp.concatenate([jnp.broadcast_to(first.astype(x.dtype), (x.shape[0], 1, cfg.dim)), x], 1)
        x = x + self.param("pos_embedding", normal, (1, cfg.tokens, cfg.dim)).astype(x.dtype)
        x = LayerNorm(cfg.eps, name="pre_norm")(x)
        block = ImageBlock(cfg, parent=None)
        blocks = self.param("blocks", stacked_init(block, cfg.num_layers, jnp.zeros((1, 1, cfg.dim))))
        used = jax.tree.map(lambda a: a[:-1], blocks)
        if cfg.out_dim:
            self.param("head", normal, (cfg.dim, cfg.out_dim))
        if self.is_initializing():
            LayerNorm(cfg.eps, name="post_norm")(x)
        return jax.lax.scan(lambda x, p: (block.apply({"params": p}, x), None), x, used)[0]
