"""Temporal consistency: how alike a frame is to the one before and to the first, by their CLIP features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, Values, each_frame
from mwjax.evaluation.networks import clip
from mwjax.evaluation.networks.clip import CLIPConfig
from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.resize import apply
from mwjax.models.image import PIXEL_MEAN, PIXEL_STD, cubic_weights
from mwjax.models.layers import along
from mwjax.types import Array, Float, UInt8


def clip_pixels(frames: UInt8[Array, "f h w 3"], size: int) -> Float[Array, "f size size 3"]:
    """The shorter side to `size` (bicubic, no antialiasing, the longer one truncated), centre crop, normalised."""
    short = min(frames.shape[1:3])
    height, width = (int(size * side / short) for side in frames.shape[1:3])
    rows = cubic_weights(frames.shape[1], height)
    columns = cubic_weights(frames.shape[2], width)
    x = apply(jnp.asarray(frames, jnp.float32), rows, columns)
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


def _measure(weights: Weights, frames: np.ndarray, reference: None) -> dict[str, Array]:
    return {"similar": similarities(np.asarray(frame_features(CLIPConfig(), weights, frames)))}


def _of_frames(values: Values) -> Float[np.ndarray, " g"]:
    return temporal_consistency(values["similar"])


METRICS = (
    Metric(
        key="temporal",
        title="temporal consistency",
        better=1,
        measurement=Measurement(name="temporal", group="temporal", needs=Needs(network="clip"), run=_measure),
        values=("similar",),
        part=each_frame(_of_frames),
        curve=Curve(title="temporal consistency, from frame 1 on", of_video=_of_frames),
        published={"Micro-World I2W": 0.9629, "Oasis": 0.9589},
    ),
)
