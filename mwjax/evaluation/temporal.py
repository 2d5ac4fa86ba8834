"""Consistency and smoothness over time, and whether a scene is still there on the way back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.networks import amt, clip
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.resize import apply, area
from mwjax.models.image import PIXEL_MEAN, PIXEL_STD, cubic_weights
from mwjax.models.layers import along
from mwjax.types import Array, Float, UInt8


def clip_pixels(frames: UInt8[Array, "f h w 3"], size: int) -> Float[Array, "f size size 3"]:
    """The shorter side to `size` (bicubic, no antialiasing, the longer one truncated), centre crop, normalised."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    height, width = (int(size * side / short) for side in (height, width))
    x = apply(jnp.asarray(frames, jnp.float32), cubic_weights(frames.shape[1], height), cubic_weights(frames.shape[2], width))
    top, left = round((height - size) / 2), round((width - size) / 2)
    x = x[:, top : top + size, left : left + size] / 255
    return (x - along(PIXEL_MEAN, x)) / along(PIXEL_STD, x)


@functools.partial(jax.jit, static_argnums=0)
def frame_features(cfg: CLIPConfig, weights: Weights, frames: UInt8[Array, "f h w 3"]) -> Float[Array, "f out"]:
    return clip.image_features(cfg, weights, clip_pixels(frames, cfg.image_size))


def similarities(features: Float[np.ndarray, "f c"]) -> Float[np.ndarray, "g 2"]:
    """Cosine of each frame but the first with the one before and with the first."""
    unit = np.asarray(features) / np.linalg.norm(features, axis=-1, keepdims=True)
    return np.stack([np.sum(unit[1:] * unit[:-1], -1), unit[1:] @ unit[0]], -1)


def temporal_consistency(similar: Float[np.ndarray, "g 2"]) -> Float[np.ndarray, " g"]:
    """Score of each frame but the first; that of a set of videos is the mean over all their frames."""
    return np.maximum(similar, 0).mean(-1)


@jax.jit
def _interpolate(weights: Weights, first: UInt8[Array, "b h w 3"], second: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    height, width = first.shape[1:3]
    extra = [-side % amt.MULTIPLE for side in (height, width)]
    pads = [(0, 0), *((e // 2, e - e // 2) for e in extra), (0, 0)]
    frame = amt.between(weights, *(jnp.pad(a.astype(jnp.float32) / 255, pads, mode="edge") for a in (first, second))).frame
    frame = frame[:, pads[1][0] : pads[1][0] + height, pads[2][0] : pads[2][0] + width]
    return jnp.floor((frame * 255).clip(0, 255)).astype(jnp.uint8)


def interpolated(weights: Weights, frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "g h w 3"]:
    """What AMT-S puts between every second frame, pair by pair."""
    even = frames[0::2]
    return np.concatenate([np.asarray(_interpolate(weights, even[i : i + 1], even[i + 1 : i + 2])) for i in range(len(even) - 1)])


def motion_smoothness(frames: UInt8[np.ndarray, "f h w 3"], between: UInt8[np.ndarray, "g h w 3"]) -> tuple[float, Float[np.ndarray, " g"]]:
    """(score, mean absolute difference of each odd frame from what was put in its place, 0 to 255)."""
    odd = frames[1::2][: len(between)].astype(np.int16)
    differences = np.abs(odd - between.astype(np.int16)).mean((1, 2, 3))
    return float((255 - differences.mean()) / 255), differences


MAX_SHIFT = 4
SIZE = (256, 256)


def scenario_distances(frames: UInt8[np.ndarray, "f h w 3"], size: tuple[int, int] = SIZE) -> Float[np.ndarray, " n"]:
    """Of each pair of mirrored frames (first and last, second and last but one …): the least mean absolute difference over small shifts."""
    small = np.concatenate([area(frame[None], *size) for frame in frames]).astype(np.int16)
    half, (height, width), shifts = len(small) // 2, size, range(-MAX_SHIFT, MAX_SHIFT + 1)
    first, last = small[:half], small[::-1][:half]

    def apart(dy: int, dx: int) -> Float[np.ndarray, " n"]:  # only where both are is compared
        a = first[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        b = last[:, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
        return np.abs(a - b).sum((1, 2, 3), dtype=np.int64) / a[0].size

    return np.min([apart(dy, dx) for dy in shifts for dx in shifts], 0)


def scenario_consistency(distances: Float[np.ndarray, " n"]) -> float:
    return float(np.clip(1 - np.mean(distances) / 255, 0, 1))
