"""The Wan2.1 video autoencoder: ×8 in space, ×4 in time, causal, with an explicit feature cache.

Activations are [b, t, h, w, c]. The cache is the flax collection "cache": apply with `mutable=["cache"]` and it comes
back beside the result. Without a cache given, the input starts a clip (1 + 4n frames, or 1 + n latents); with one, it
continues it. So the whole clip at once, chunks of any length and one latent frame at a time are the same function.
Source: Wan2.1 `wan/modules/vae.py`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mwjax.models.attention import attention
from mwjax.models.layers import Module, along
from mwjax.types import Array, Float

LATENT_MEAN = np.float32([-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                          0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921])  # fmt: skip
LATENT_STD = np.float32([2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                         3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes: base width, width multipliers of the four levels, residual blocks per level, where time is halved."""

    dim: int = 96
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_down: tuple[bool, ...] = (False, True, True)
    z_dim: int = 16

    @property
    def spatial_stride(self) -> int:
        """Pixels along a side of a latent pixel."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_stride(self) -> int:
        """Frames of a latent frame, but the first, which is one."""
        return 2 ** sum(self.temporal_down)


class RMSNorm(Module):
    """Channels divided by their root mean square, times gamma."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        norm = jnp.sqrt(jnp.sum(x.astype(jnp.float32) ** 2, -1, keepdims=True))
        return (x / jnp.maximum(norm, 1e-12)).astype(x.dtype) * along(gamma * x.shape[-1] ** 0.5, x)


class Conv(Module):
    """A 2-D convolution on every frame. padding: ((top, bottom), (left, right)). doubled: of the frames at twice
    their height and width."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    doubled: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h2 w2 c2"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = conv_doubled(x, kernel) if self.doubled else conv_frames(x, kernel, self.stride, self.padding)
        return y + along(bias, y)


def present_only(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initial kernel that looks at the present frame alone, so that what is learnt from images holds for clips from
    the start."""
    present = nn.initializers.lecun_normal()(rng, shape[1:], dtype)
    return jnp.concatenate([jnp.zeros((shape[0] - 1, *shape[1:]), dtype), present[None]])


def repeat_frame(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initial kernel of the temporal up-sampling: every frame twice."""
    del rng
    return jnp.zeros(shape, dtype).at[-1, 0, 0].set(jnp.tile(jnp.eye(shape[-2], dtype=dtype), 2))


def mean_frame(rng: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Initial kernel of the temporal down-sampling: the mean of two frames."""
    del rng
    return jnp.zeros(shape, dtype).at[-2:].set(jnp.eye(shape[-1], dtype=dtype) / 2)


class CausalConv(Module):
    """A 3-D convolution that sees only the past: the two frames before the chunk come from the cache, zeros at the
    start.

    Its temporal taps are folded into the channels of a 2-D convolution, which is several times faster than a 3-D one.
    """

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    init: nn.initializers.Initializer = present_only

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c2"]:
        taps, kh, kw = self.kernel
        kernel = self.param("kernel", self.init, (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        frames, start = x.shape[1], taps == 1 or not self.has_variable("cache", "past")
        if taps > 1:
            past = self.variable("cache", "past", lambda: jnp.zeros((x.shape[0], taps - 1, *x.shape[2:]), x.dtype))
            x = jnp.concatenate([past.value, x], 1)
            if self.is_mutable_collection("cache"):
                past.value = x[:, x.shape[1] - (taps - 1) :]
        if frames == 0:  # the first latent frame never reaches the temporal up-sampling
            return jnp.zeros((x.shape[0], 0, *x.shape[2:4], self.features), x.dtype)

        def convolve(first: int, count: int, used: int):
            """Frames first … first + count − 1 of the result, from the last `used` taps."""
            folded = jnp.concatenate([x[:, first + i : first + i + count] for i in range(taps - used, taps)], -1)
            rows = kernel[taps - used :].transpose(1, 2, 0, 3, 4).reshape(kh, kw, -1, self.features)
            return conv_frames(folded, rows, 1, ((kh // 2,) * 2, (kw // 2,) * 2))

        # At the start of a clip the earlier taps see zeros: the first frame needs one tap, the second two.
        early = min(frames, taps - 1) if start else 0
        pieces = [convolve(i, 1, i + 1) for i in range(early)] + (
            [convolve(early, frames - early, taps)] if frames > early else []
        )
        y = jnp.concatenate(pieces, 1)
        return y + along(bias, y)


def conv_frames(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kh kw c c2"], stride: int, padding
) -> Float[Array, "b t h2 w2 c2"]:
    """One 2-D convolution on every frame."""
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        kernel.astype(x.dtype),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def conv_doubled(x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 c c2"]) -> Float[Array, "b t h2 w2 c2"]:
    """The 3×3 convolution of frames whose every pixel is repeated to 2×2, in 4/9 of the operations: where taps fall
    on copies of one pixel, their weights are summed, and each of the four positions within a pixel is a 2×2
    convolution."""

    def halves(k):  # of even and odd rows
        return (k[0], k[1] + k[2]), (k[0] + k[1], k[2])

    rows = [jnp.stack(pair) for pair in halves(kernel)]
    phases = []
    for even_row, row in zip((1, 0), rows, strict=True):
        for even_column, pair in zip((1, 0), halves(row.swapaxes(0, 1)), strict=True):
            padding = ((even_row, 1 - even_row), (even_column, 1 - even_column))
            phases.append(conv_frames(x, jnp.stack(pair).swapaxes(0, 1), 1, padding))
    return rearrange(jnp.stack(phases), "(p q) b t h w c -> b t (h p) (w q) c", p=2)


class ResidualBlock(Module):
    features: int

    @nn.compact
    def __call__(self, x):
        y = CausalConv(self.features, name="conv1")(nn.silu(RMSNorm(name="norm1")(x)))
        y = CausalConv(self.features, name="conv2")(nn.silu(RMSNorm(name="norm2")(y)))
        if x.shape[-1] != self.features:
            x = CausalConv(self.features, (1, 1, 1), name="shortcut")(x)
        return x + y


class FrameAttention(Module):
    """Single-head attention among the positions of each frame."""

    @nn.compact
    def __call__(self, x):
        b, t, h, w, c = x.shape
        qkv = Conv(3 * c, (1, 1), padding=((0, 0), (0, 0)), name="to_qkv")(RMSNorm(name="norm")(x))
        q, k, v = (y.reshape(b * t, h * w, 1, c) for y in jnp.split(qkv, 3, -1))
        y = attention(q, k, v).reshape(b, t, h, w, c)
        return x + Conv(c, (1, 1), padding=((0, 0), (0, 0)), name="proj")(y)


class Downsample(Module):
    """Halve height and width and, if `temporal`, time: a clip's first frame is kept as it is."""

    temporal: bool

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        x = Conv(c, stride=2, padding=((0, 1), (0, 1)), name="resample")(x)
        if not self.temporal:
            return x
        kernel = self.param("time_kernel", mean_frame, (3, c, c))
        bias = self.param("time_bias", nn.initializers.zeros, (c,))
        first = not self.has_variable("cache", "past")
        past = self.variable("cache", "past", lambda: x[:, :1])
        frames = x if first else jnp.concatenate([past.value, x], 1)
        if self.is_mutable_collection("cache"):
            past.value = x[:, -1:]
        steps = (frames.shape[1] - 1) // 2
        y = sum(frames[:, i : i + 2 * steps : 2][:, :steps] @ kernel[i].astype(x.dtype) for i in range(3)) + along(
            bias, x
        )
        return jnp.concatenate([x[:, :1], y], 1) if first else y


class Upsample(Module):
    """Double height and width, halve channels and, if `temporal`, double time: a clip's first frame stays one."""

    temporal: bool

    @nn.compact
    def __call__(self, x):
        if self.temporal:
            time_conv = CausalConv(2 * x.shape[-1], (3, 1, 1), repeat_frame, name="time_conv")
            first = not self.has_variable("cache", "started")
            started = self.variable("cache", "started", lambda: jnp.ones((), jnp.bool_))
            del started
            y = time_conv(x[:, 1:] if first else x)
            y = jnp.stack(jnp.split(y, 2, -1), 2).reshape(y.shape[0], 2 * y.shape[1], *x.shape[2:])
            x = jnp.concatenate([x[:, :1], y], 1) if first else y
        return Conv(x.shape[-1] // 2, doubled=True, name="resample")(x)


class Encoder(Module):
    config: VAEConfig

    @nn.compact
    def __call__(self, x):
        cfg, index = self.config, 0
        x = CausalConv(cfg.dim, name="conv1")(x)
        for level, mult in enumerate(cfg.dim_mult):
            for _ in range(cfg.num_res_blocks):
                x = ResidualBlock(cfg.dim * mult, name=f"downsamples_{index}")(x)
                index += 1
            if level < len(cfg.dim_mult) - 1:
                x = Downsample(cfg.temporal_down[level], name=f"downsamples_{index}")(x)
                index += 1
        x = ResidualBlock(x.shape[-1], name="middle_0")(x)
        x = FrameAttention(name="middle_1")(x)
        x = ResidualBlock(x.shape[-1], name="middle_2")(x)
        return CausalConv(2 * cfg.z_dim, name="head")(nn.silu(RMSNorm(name="norm")(x)))


class Decoder(Module):
    config: VAEConfig

    @nn.compact
    def __call__(self, x):
        cfg, index = self.config, 0
        mults, temporal = cfg.dim_mult[::-1], cfg.temporal_down[::-1]
        x = CausalConv(cfg.dim * mults[0], name="conv1")(x)
        x = ResidualBlock(x.shape[-1], name="middle_0")(x)
        x = FrameAttention(name="middle_1")(x)
        x = ResidualBlock(x.shape[-1], name="middle_2")(x)
        for level, mult in enumerate(mults):
            for _ in range(cfg.num_res_blocks + 1):
                x = ResidualBlock(cfg.dim * mult, name=f"upsamples_{index}")(x)
                index += 1
            if level < len(mults) - 1:
                x = Upsample(temporal[level], name=f"upsamples_{index}")(x)
                index += 1
        return CausalConv(3, name="head")(nn.silu(RMSNorm(name="norm")(x)))


class VAE(Module):
    """Encoder and decoder with the 1×1×1 layers around the latents. Pixels are in [-1, 1]; latents are normalised."""

    config: VAEConfig

    def setup(self):
        self.encoder, self.decoder = Encoder(self.config), Decoder(self.config)
        self.conv1 = CausalConv(2 * self.config.z_dim, (1, 1, 1))
        self.conv2 = CausalConv(self.config.z_dim, (1, 1, 1))

    def encode(
        self, video: Float[Array, "b f h w 3"]
    ) -> tuple[Float[Array, "b t h8 w8 z"], Float[Array, "b t h8 w8 z"]]:
        """Pixels to the normalised mean and the raw log-variance of the latents."""
        mean, log_variance = jnp.split(self.conv1(self.encoder(video)), 2, -1)
        return (mean - along(LATENT_MEAN, mean)) / along(LATENT_STD, mean), log_variance

    def decode(self, latents: Float[Array, "b t h8 w8 z"]) -> Float[Array, "b f h w 3"]:
        """Normalised latents to pixels, before the clamp to [-1, 1]."""
        return self.decoder(self.conv2(latents * along(LATENT_STD, latents) + along(LATENT_MEAN, latents)))

    def __call__(self, video):
        return self.decode(self.encode(video)[0])


def standardised(params: dict, mean: Float[Array, " z"], deviation: Float[Array, " z"]) -> dict:
    """The same autoencoder, bar rounding, whose latents have mean 0 and deviation 1 per channel.

    mean, deviation: of its normalised latents now, over the data. The layers around the latents are linear and take
    it up. A channel that carries nothing (deviation below 1e-3) is not blown up.
    """
    z = len(mean)
    scale, raw_mean = (
        np.maximum(deviation, 1e-3).astype(np.float32),
        LATENT_MEAN + np.asarray(mean, np.float32) * LATENT_STD,
    )
    before, after = params["conv1"], params["conv2"]
    factor = np.concatenate([1 / scale, np.ones(z, np.float32)])
    offset = np.concatenate([LATENT_MEAN - raw_mean / scale, -2 * np.log(scale)])
    return params | {
        "conv1": {
            "kernel": before["kernel"] * along(factor, before["kernel"]),
            "bias": before["bias"] * factor + offset,
        },
        "conv2": {
            "kernel": after["kernel"] * scale.reshape(1, 1, 1, z, 1),
            "bias": after["bias"] + (raw_mean - LATENT_MEAN * scale) @ after["kernel"][0, 0, 0],
        },
    }
