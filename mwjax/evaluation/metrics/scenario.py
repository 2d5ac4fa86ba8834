"""Scenario consistency: whether a scene is still there on the way back, for actions that return the way they came."""

import numpy as np

from mwjax.evaluation.metric import Curve, Measurement, Metric, Values, each_video, raw
from mwjax.evaluation.resize import SIZE, area
from mwjax.types import Float, UInt8


def scenario_distances(
    frames: UInt8[np.ndarray, "f h w 3"], size: tuple[int, int] = SIZE, *, max_shift: int = 4
) -> Float[np.ndarray, " n"]:
    """Of each pair of mirrored frames (first and last, second and last but one …): how far apart they are, 0 to 255.

    That is the least mean absolute difference over all shifts of at most `max_shift` pixels along each axis, of
    pictures of `size` (height, width).
    """
    small = np.concatenate([area(frame[None], *size) for frame in frames]).astype(np.int16)
    half = len(small) // 2
    height, width = size
    first, last = small[:half], small[::-1][:half]

    def apart(dy: int, dx: int) -> Float[np.ndarray, " n"]:  # only where both are is compared
        a = first[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        b = last[:, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
        return np.abs(a - b).sum((1, 2, 3), dtype=np.int64) / a[0].size

    shifts = range(-max_shift, max_shift + 1)
    return np.min([apart(dy, dx) for dy in shifts for dx in shifts], 0)


def scenario_consistency(distances: Float[np.ndarray, " n"]) -> float:
    """Score of a video from its distances, 0 to 1."""
    return float(np.clip(1 - np.mean(distances) / 255, 0, 1))


def _measure(network: None, frames: np.ndarray, reference: None) -> dict[str, np.ndarray]:
    return {"scenario": scenario_distances(frames)}


def _of_video(values: Values) -> float:
    return scenario_consistency(values["scenario"])


METRICS = (
    Metric(
        key="scenario",
        title="scenario consistency",
        better=1,
        measurement=Measurement(name="scenario", group="temporal", run=_measure),
        values=("scenario",),
        part=each_video(_of_video),
        curve=Curve(title="mirrored frames apart, of 255; outermost pair first", of_video=raw("scenario")),
        about="meant for actions that go back the way they came",
    ),
)
