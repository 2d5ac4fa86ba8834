"""Fréchet video distance: how far apart two sets of videos are, as distributions of I3D logits."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Needs, Score, Values
from mwjax.evaluation.networks.i3d import LEAST_FRAMES, i3d
from mwjax.evaluation.networks.layers import Weights
from mwjax.evaluation.resize import bilinear, pictures
from mwjax.types import Array, Float

SIDE = 224
RESAMPLES = 100  # of the interval, which is costly
RESAMPLED_PREFIXES = 8
FEW = 3  # videos, of which resampling says nothing


def preprocess(video: Float[Array, "f h w 3"]) -> Float[Array, "f 224 224 3"]:
    """Frames in [0, 1]: the shorter side to 224 (the longer one rounded up), centre crop, to [-1, 1]."""
    height, width = video.shape[1:3]
    scale = SIDE / min(height, width)
    height, width = (SIDE if side == min(height, width) else math.ceil(side * scale) for side in (height, width))
    x = bilinear(video, height, width)
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return 2 * x[:, top : top + SIDE, left : left + SIDE] - 1


@functools.partial(jax.jit, static_argnames="prefixes")
def logits(weights: Weights, video: Float[Array, "f h w 3"], *, prefixes: tuple[int, ...]) -> Float[Array, "p classes"]:
    """I3D's logits of the first n frames, for each n of `prefixes`.

    Frames in [0, 1]; the published table resizes them to 256×256 before.
    """
    pixels = preprocess(video)
    return jnp.concatenate([i3d(weights, pixels[None, :n]) for n in prefixes])


def frechet(a: Float[np.ndarray, "n c"], b: Float[np.ndarray, "m c"]) -> float:
    """‖μa − μb‖² + tr(Σa + Σb − 2 √(Σa Σb)); of single videos the first term alone.

    The trace of the root is the sum of the singular values of Aᵀ B, where Σ = A Aᵀ: exact, and cheap for few videos.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = float(np.sum((a.mean(0) - b.mean(0)) ** 2))
    if len(a) == 1 or len(b) == 1:
        return apart
    rows = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    root = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    return apart + float(sum(np.sum(x * x) for x in rows) - 2 * root)


def prefixes_of(frames: int) -> tuple[int, ...]:
    """How many of the first frames are looked at, each in turn."""
    return tuple(range(LEAST_FRAMES, frames + 1))


def _measure(weights: Weights, frames: np.ndarray, reference: None) -> dict[str, Array]:
    return {"logits": logits(weights, pictures(frames), prefixes=prefixes_of(len(frames)))}


def _stacked(videos: Sequence[Values], prefixes: slice) -> Float[np.ndarray, "videos p classes"]:
    return np.stack([values["logits"] for values in videos])[:, prefixes]


def score_prefixes(prefixes: slice, videos: Sequence[Values], reference: Sequence[Values], seed: int) -> Score | None:
    """The mean distance over some prefixes; None without videos, reference or such a prefix.

    The interval is ±1.96 deviations over resamples of both sets.
    """
    if not videos or not reference:
        return None
    sets = [_stacked(part, prefixes) for part in (videos, reference)]
    count = sets[0].shape[1]
    if not count:
        return None

    def distance(a: np.ndarray, b: np.ndarray, chosen: Sequence[int]) -> float:
        return float(np.mean([frechet(a[:, p], b[:, p]) for p in chosen]))

    value = distance(*sets, range(count))
    if min(map(len, sets)) <= FEW:
        return Score(value, value, value, len(videos))
    rng = np.random.default_rng(seed)
    chosen = np.unique(np.linspace(0, count - 1, RESAMPLED_PREFIXES).astype(int)).tolist()
    drawn = []
    for _ in range(RESAMPLES):
        again = [s[rng.integers(len(s), size=len(s))] for s in sets]
        drawn.append(distance(*again, chosen))
    spread = 1.96 * float(np.std(drawn))
    return Score(value, value - spread, value + spread, len(videos))


def by_prefix(videos: Sequence[Values], reference: Sequence[Values]) -> list[float]:
    """The distance of every prefix, the shortest (10 frames) first; [] without videos or reference."""
    if not videos or not reference:
        return []
    sets = [_stacked(part, slice(None)) for part in (videos, reference)]
    return [frechet(sets[0][:, p], sets[1][:, p]) for p in range(sets[0].shape[1])]


LOGITS = Measurement(
    name="fvd",
    group="video",
    needs=Needs(network="i3d", reference="set", frames=LEAST_FRAMES),
    run=_measure,
)
SIXTEEN = slice(16 - LEAST_FRAMES, 17 - LEAST_FRAMES)

METRICS = (
    Metric(
        key="fvd",
        title="FVD",
        better=-1,
        measurement=LOGITS,
        values=("logits",),
        score_set=functools.partial(score_prefixes, slice(None)),
        curve=Curve(title=f"FVD by frames, from {LEAST_FRAMES} on", of_set=by_prefix),
        digits=2,
        about=f"mean over all prefixes from {LEAST_FRAMES} frames on",
        published={"Micro-World I2W": 175.371, "Oasis": 596.986},
    ),
    Metric(
        key="fvd16",
        title="FVD of 16 frames",
        better=-1,
        measurement=LOGITS,
        values=("logits",),
        score_set=functools.partial(score_prefixes, SIXTEEN),
        frames=16,
        digits=2,
    ),
)
