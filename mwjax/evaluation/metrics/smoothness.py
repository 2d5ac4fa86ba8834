"""Motion smoothness: how far every second frame is from what AMT-S puts between its neighbours."""

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, Values, each_video, raw
from mwjax.evaluation.networks import amt
from mwjax.evaluation.networks.layers import Weights
from mwjax.types import Array, Float, UInt8


@jax.jit
def _interpolate(
    weights: Weights, first: UInt8[Array, "b h w 3"], second: UInt8[Array, "b h w 3"]
) -> UInt8[Array, "b h w 3"]:
    height, width = first.shape[1:3]
    extra = [-side % amt.MULTIPLE for side in (height, width)]
    pads = [(0, 0), *((e // 2, e - e // 2) for e in extra), (0, 0)]
    pair = (jnp.pad(a.astype(jnp.float32) / 255, pads, mode="edge") for a in (first, second))
    frame = amt.between(weights, *pair).frame
    frame = frame[:, pads[1][0] : pads[1][0] + height, pads[2][0] : pads[2][0] + width]
    return jnp.floor((frame * 255).clip(0, 255)).astype(jnp.uint8)


def interpolated(weights: Weights, frames: UInt8[np.ndarray, "f h w 3"]) -> UInt8[np.ndarray, "g h w 3"]:
    """What AMT-S puts between every second frame, pair by pair."""
    even = frames[0::2]
    pairs = [(even[i : i + 1], even[i + 1 : i + 2]) for i in range(len(even) - 1)]
    return np.concatenate([np.asarray(_interpolate(weights, first, second)) for first, second in pairs])


def differences(frames: UInt8[np.ndarray, "f h w 3"], between: UInt8[np.ndarray, "g h w 3"]) -> Float[np.ndarray, " g"]:
    """Mean absolute difference of each odd frame from what was put in its place, 0 to 255."""
    odd = frames[1::2][: len(between)].astype(np.int16)
    return np.abs(odd - between.astype(np.int16)).mean((1, 2, 3))


def motion_smoothness(apart: Float[np.ndarray, " g"]) -> float:
    """Score of a video from its differences, 0 to 1."""
    return float((255 - apart.mean()) / 255)


def _measure(weights: Weights, frames: np.ndarray, reference: None) -> dict[str, Array]:
    return {"smooth": differences(frames, interpolated(weights, frames))}


def _of_video(values: Values) -> float:
    return motion_smoothness(values["smooth"])


SMOOTH = Measurement(
    name="smoothness",
    group="temporal",
    needs=Needs(network="amt", frames=3, side=amt.LEAST_SIDE),
    run=_measure,
)

METRICS = (
    Metric(
        key="smoothness",
        title="motion smoothness",
        better=1,
        measurement=SMOOTH,
        values=("smooth",),
        part=each_video(_of_video),
        curve=Curve(title="every second frame from its interpolation", of_video=raw("smooth")),
        published={"Micro-World I2W": 0.9750, "Oasis": 0.9875},
    ),
)
