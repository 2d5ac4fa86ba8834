"""Latents to frames: whole clips under a scan, frames as they come, or tile by tile."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.models.vae import VAE, VAEConfig
from mwjax.types import Array, Float, UInt8

OVERLAP = 4  # of a tile's side: a quarter lies over its neighbour


def decode_chunk(
    cfg: VAEConfig, params: dict, cache: dict, latent: Float[Array, "b h w z"]
) -> tuple[dict, Float[Array, "b f h8 w8 3"]]:
    """(cache, frames in [0, 1]) of the next latent frame: one frame for the first, four for each other."""
    variables = {"params": params, **cache}
    frames, cache = VAE(cfg).apply(variables, latent[:, None], method="decode", mutable=["cache"])
    return cache, jnp.clip(frames / 2 + 0.5, 0, 1)


def decode(cfg: VAEConfig, params: dict, latents: Float[Array, "b t h w z"]) -> Float[Array, "b f h8 w8 3"]:
    """Latents to frames in [0, 1], one latent frame at a time under a scan: memory does not grow with length."""
    cache, start = decode_chunk(cfg, params, {}, latents[:, 0])
    if latents.shape[1] == 1:
        return start
    _, rest = jax.lax.scan(functools.partial(decode_chunk, cfg, params), cache, jnp.moveaxis(latents[:, 1:], 1, 0))
    rest = jnp.moveaxis(rest, 0, 1).reshape(start.shape[0], -1, *start.shape[2:])
    return jnp.concatenate([start, rest], 1)


def to_bytes(frames: Float[Array, "b f h w 3"]) -> UInt8[Array, "b f h w 3"]:
    return jnp.round(frames * 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode_next(
    cfg: VAEConfig, params: dict, cache: dict, latent: Float[Array, "b h w z"]
) -> tuple[dict, UInt8[Array, "b f h8 w8 3"]]:
    """`decode_chunk` to bytes, compiled; the cache is donated."""
    cache, frames = decode_chunk(cfg, params, cache, latent)
    return cache, to_bytes(frames)


def decode_stream(
    cfg: VAEConfig, params: dict, latents: Float[Array, "b t h w z"]
) -> Iterator[UInt8[np.ndarray, "b f h8 w8 3"]]:
    """Frames as they are decoded: each chunk leaves the device while the next one is computed."""
    cache, waiting = decode_next(cfg, params, {}, latents[:, 0])
    for i in range(1, latents.shape[1]):
        cache, following = decode_next(cfg, params, cache, latents[:, i])
        yield np.asarray(waiting)
        waiting = following
    yield np.asarray(waiting)


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along an axis: all of size `tile`, overlapping by at least a quarter, the last flush with the
    end."""
    if tile >= length:
        return [0]
    count = -(-(length - tile) // (tile - tile // OVERLAP)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(start: int, size: int, length: int) -> np.ndarray:
    """Weight of a tile along one axis: rising and falling over the overlap where it has a neighbour."""
    position, overlap = np.arange(size) + 0.5, max(size // OVERLAP, 1)
    rise = position / overlap if start else np.full(size, 1.0)
    fall = (size - position) / overlap if start + size < length else np.full(size, 1.0)
    return np.minimum(np.minimum(rise, fall), 1.0).astype(np.float32)


def decode_tiles(
    cfg: VAEConfig, params: dict, latents: Float[Array, "b t h w z"], tile: int
) -> Iterator[UInt8[np.ndarray, "b f h8 w8 3"]]:
    """As `decode_stream`, tile by tile of tile × tile latents, seams blended linearly: memory grows with the tile, not
    with the picture.

    Not what whole frames give: attention and convolutions see a tile only.
    """
    _, t, height, width, _ = latents.shape
    stride = cfg.spatial_stride
    rows, columns = min(tile, height), min(tile, width)
    places = [(y, x) for y in tile_starts(height, tile) for x in tile_starts(width, tile)]
    caches: list[dict] = [{} for _ in places]
    for i in range(t):
        total = weight = 0.0
        for k, (y, x) in enumerate(places):
            latent = latents[:, i, y : y + rows, x : x + columns]
            caches[k], frames = decode_next(cfg, params, caches[k], latent)
            down = _ramp(stride * y, stride * rows, stride * height)
            across = _ramp(stride * x, stride * columns, stride * width)
            mask = (down[:, None] * across)[None, None, :, :, None]
            above, left = (y, height - rows - y), (x, width - columns - x)
            outside = ((0, 0), (0, 0), *(tuple(stride * n for n in pair) for pair in (above, left)), (0, 0))
            total = total + np.pad(np.asarray(frames) * mask, outside)
            weight = weight + np.pad(mask, outside)
        yield np.round(total / weight).astype(np.uint8)
