"""LPIPS of generated frames against reference frames: pictures at 256×256, in [0, 1] as in the published table.

The usual convention is an option: pictures in [-1, 1], for which the network was made.
"""

import functools

import jax
import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, each_frame, raw
from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.networks.lpips import lpips_layers
from mwjax.evaluation.resize import SIZE, pictures
from mwjax.types import Array, Float, UInt8

AT_ONCE = 16  # frames that go through the network together


@functools.partial(jax.jit, static_argnames=("size", "rescaled"))
def lpips(
    weights: Weights,
    a: UInt8[Array, "f h w 3"],
    b: UInt8[Array, "f h2 w2 3"],
    *,
    size: tuple[int, int] = SIZE,
    rescaled: bool = False,
) -> Float[Array, " f"]:
    """LPIPS of each frame. rescaled: to [-1, 1], as the network was made for; the published numbers were not."""
    a, b = pictures(a, size), pictures(b, size)
    if rescaled:
        a, b = 2 * a - 1, 2 * b - 1
    return lpips_layers(weights, a, b).sum(-1)


def _measure(rescaled: bool, weights: Weights, frames: np.ndarray, reference: np.ndarray) -> dict[str, Array]:
    parts = [slice(i, i + AT_ONCE) for i in range(0, len(frames), AT_ONCE)]
    return {"lpips": np.concatenate([lpips(weights, frames[p], reference[p], rescaled=rescaled) for p in parts])}


def _metric(rescaled: bool) -> Metric:
    measurement = Measurement(
        name="lpips",
        group="visual",
        needs=Needs(network="lpips", reference="clip"),
        run=functools.partial(_measure, rescaled),
        settings={"rescaled": rescaled},
    )
    return Metric(
        key="lpips",
        title="LPIPS",
        better=-1,
        measurement=measurement,
        values=("lpips",),
        part=each_frame(raw("lpips")),
        curve=Curve(title="LPIPS", of_video=raw("lpips")),
        published={"Micro-World I2W": 0.4128, "Oasis": 0.5641},
        when={"conventional": rescaled},
    )


METRICS = (_metric(rescaled=False), _metric(rescaled=True))
