"""Inverse dynamics model: which buttons and camera motion lie between the frames of a video. Source: OpenAI VPT
`lib/policy.py`, `lib/impala_cnn.py`.

Convolutions over five neighbouring frames, a residual network on each frame, attention over all frames. Two habits of
the original are kept: its `lastlayer` is computed and thrown away (so it is left out here), and a block's residual is
added to the normalised input."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mwjax.models.layers import Dense, LayerNorm, Module
from mwjax.types import Array, Float, UInt8

BUTTONS = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory",
           *(f"hotbar.{i}" for i in range(1, 10)))  # fmt: skip
CAMERA_BINS = 11  # for each of pitch, yaw
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class IDMConfig:
    """Sizes; the defaults are the released `4x_idm`. frames_at_once: how many go through the convolutions together
    (0: all), for memory."""

    image_size: tuple[int, int] = (128, 128)
    conv3d: int = 128
    channels: tuple[int, ...] = (256, 512, 512)
    blocks: int = 2
    cnn_dim: int = 256
    dim: int = 4096
    num_heads: int = 32
    num_layers: int = 2
    mlp_ratio: int = 4
    frames_at_once: int = 0


def group_norm(
    x: Float[Array, "*b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> Float[Array, "*b h w c"]:
    """Normalised over a whole frame (one group), with a scale and bias per channel."""
    mean = x.mean((-3, -2, -1), keepdims=True)
    variance = jnp.mean((x - mean) ** 2, (-3, -2, -1), keepdims=True)
    shape = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean) * jax.lax.rsqrt(variance + EPS) * scale.reshape(shape) + bias.reshape(shape)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Maximum over 3×3, every second pixel, beyond the border nothing. Along one axis, then the other: its gradient
    is far cheaper so."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)], constant_values=-jnp.inf)
        x = functools.reduce(jnp.maximum, (jax.lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3)))
    return x


def differences(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "5 1 1 3 c"]:
    """A start for the first layer: three quarters of its channels see only what changes between frames, five times as
    strong.

    From an ordinary start a small model does not find motion in any time worth waiting for.
    """
    kernel, moving = nn.initializers.he_normal()(rng, shape, dtype), shape[-1] * 3 // 4
    changes = 5 * (kernel - kernel.mean(0, keepdims=True))
    return jnp.concatenate([changes[..., :moving], kernel[..., moving:]], -1)


class FrameNorm(Module):
    @nn.compact
    def __call__(self, x):
        return group_norm(
            x,
            self.param("scale", nn.initializers.ones, x.shape[-1:]),
            self.param("bias", nn.initializers.zeros, x.shape[-1:]),
        )


class NormConv(Module):
    """Norm, 3×3 convolution without bias, ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], self.features))
        x = FrameNorm(name="norm")(x)
        return nn.relu(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )


class NormDense(Module):
    """Norm, matrix without bias, ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.features))
        return nn.relu(LayerNorm(EPS, name="norm")(x) @ kernel)


class Stack(Module):
    """Convolution, halving by a maximum, norm, residual blocks."""

    features: int
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = NormConv(self.features, name="first")(x)
        x = FrameNorm(name="norm")(halve(x))
        for i in range(self.blocks):
            x = x + NormConv(self.features, name=f"block_{i}_conv1")(
                NormConv(self.features, name=f"block_{i}_conv0")(x)
            )
        return x


class Attend(Module):
    """Attention over all frames (no mask, logits divided by the width of a head) and an MLP."""

    num_heads: int
    mlp_ratio: int

    @nn.compact
    def __call__(self, x: Float[Array, "b f d"]) -> Float[Array, "b f d"]:
        dim = x.shape[-1]
        x = LayerNorm(EPS, name="norm")(x)
        q, k, v = (
            rearrange(Dense(dim, use_bias=n == "q", name=n)(x), "b f (n k) -> b n f k", n=self.num_heads) for n in "qkv"
        )
        weights = jax.nn.softmax(jnp.einsum("bnfk,bngk->bnfg", q, k) / q.shape[-1], -1)
        x = x + Dense(dim, name="proj")(rearrange(jnp.einsum("bnfg,bngk->bnfk", weights, v), "b n f k -> b f (n k)"))
        return x + Dense(dim, name="mlp1")(NormDense(self.mlp_ratio * dim, name="mlp0")(x))


class FrameNet(Module):
    """One frame, with its neighbours already mixed in, to a vector."""

    config: IDMConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        cfg = self.config
        for i, features in enumerate(cfg.channels):
            x = Stack(features, cfg.blocks, name=f"stack_{i}")(x)
        x = NormDense(cfg.cnn_dim, name="dense")(rearrange(x, "b h w c -> b (c h w)"))
        return NormDense(cfg.dim, name="linear")(x)


class InverseDynamics(Module):
    """Frames to logits of every button (two classes each) and of the camera's bins (pitch, yaw) at every frame.

    Frames must have the size of the config. Logits are those before the original's temperature, which changes no
    decision."""

    config: IDMConfig

    @nn.compact
    def __call__(
        self, video: UInt8[Array, "b f h w 3"]
    ) -> tuple[Float[Array, "b f buttons 2"], Float[Array, "b f 2 bins"]]:
        cfg = self.config
        batch, frames = video.shape[:2]
        x = video.astype(jnp.float32) / 255
        kernel = self.param("conv3d_kernel", differences, (5, 1, 1, 3, cfg.conv3d))
        bias = self.param("conv3d_bias", nn.initializers.zeros, (cfg.conv3d,))
        padded = jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0), (0, 0)))
        net = FrameNet(cfg, parent=None)
        params = self.param("frames", lambda rng: net.init(rng, jnp.zeros((1, *cfg.image_size, cfg.conv3d)))["params"])

        def features(start, count):  # of `count` frames, seen with two more on each side
            near = jax.lax.dynamic_slice_in_dim(padded, start, count + 4, 1)
            mixed = sum(near[:, i : i + count] @ kernel[i, 0, 0] for i in range(5)) + bias.reshape(1, 1, 1, 1, -1)
            merged = nn.relu(mixed).reshape(-1, *mixed.shape[2:])
            return net.apply({"params": params}, merged).reshape(batch, count, -1)

        if cfg.frames_at_once:
            x = jax.lax.map(
                lambda start: features(start, 1)[:, 0], jnp.arange(frames), batch_size=cfg.frames_at_once
            ).swapaxes(0, 1)
        else:
            x = features(0, frames)
        for i in range(cfg.num_layers):
            x = Attend(cfg.num_heads, cfg.mlp_ratio, name=f"block_{i}")(x)
        x = LayerNorm(EPS, name="final_norm")(nn.relu(x))
        buttons = Dense(2 * len(BUTTONS), name="buttons")(x).reshape(batch, frames, len(BUTTONS), 2)
        return buttons, Dense(2 * CAMERA_BINS, name="camera")(x).reshape(batch, frames, 2, CAMERA_BINS)


@functools.cache
def idm_shapes(cfg: IDMConfig) -> dict:
    """Shapes of the parameters; nothing is allocated. Kept: do not change them."""
    video = jnp.zeros((1, 1, *cfg.image_size, 3), jnp.uint8)
    return jax.eval_shape(lambda: InverseDynamics(cfg).init(jax.random.key(0), video)["params"])
