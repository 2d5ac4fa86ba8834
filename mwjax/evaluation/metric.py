"""What a metric is: what it needs, how one video is measured, and how the values of many become a score."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Values = dict[str, np.ndarray]  # raw values of one video, by name; what was asked for begins with ASKED
ASKED = "asked_"


@dataclasses.dataclass(frozen=True)
class Score:
    """A value with its 95 % interval (both ends are the value itself where there is one video)."""

    value: float
    low: float
    high: float
    videos: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What must be there before anything is measured.

    network: name of the network that measures, "" for none. reference: "clip" if a video is measured beside the real
    clip of the same name, "set" if a set of videos is scored against the set of all real clips, "" for none. actions:
    whether it takes what was asked for. frames: how many a video must have. side: pixels of its shorter side.
    """

    network: str = ""
    reference: str = ""
    actions: bool = False
    frames: int = 1
    side: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured on one video, once for all the metrics that are made of it, and kept on disk under `name`.

    group: the word of --metrics that asks for it. run(network, frames, reference): raw values of a video, uint8
    [f, h, w, 3], by name; network is None where none is needed, reference is the real clip, uint8 [f, h2, w2, 3], where
    needs.reference is "clip", and None elsewhere. settings: what else the values depend on, as JSON; what is on disk
    under other settings is measured again.
    """

    name: str
    group: str
    run: Callable[[Any, np.ndarray, np.ndarray | None], dict]
    needs: Needs = Needs()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A line over frames for the page, by one of two functions.

    of_video(values): of one video; the line of a set is the mean over its videos, NaN left out. of_set(videos,
    reference): of a set, all at once; [] where there is none.
    """

    title: str
    of_video: Callable[[Values], np.ndarray] | None = None
    of_set: Callable[[Sequence[Values], Sequence[Values]], list[float]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of the table.

    The score of a set of videos is finish(Σ sums / Σ weights), where part(values) gives (sum, weight) of a video; or,
    for a metric that has no score of one video, what score_set(videos, reference, seed) says.

    better: 1 if larger is better, −1 if smaller. values: the raw values it takes, by name. finish must be monotonic.
    frames: how many it needs, where those are more than the measurement needs. digits: shown behind the point. about:
    what the title does not say. family: what several metrics of one kind are called together. published: values of the
    published table by model. when: values of options (see metrics.choose) under which this line of the table counts.
    confusions(videos): tables for the page by what was asked, each {"names": of the classes, "table": [asked][read],
    "scores": by name}.
    """

    key: str
    title: str
    better: int
    measurement: Measurement
    values: tuple[str, ...]
    part: Callable[[Values], tuple[float, float]] | None = None
    finish: Callable[[float], float] = float
    score_set: Callable[[Sequence[Values], Sequence[Values], int], Score | None] | None = None
    curve: Curve | None = None
    confusions: Callable[[Sequence[Values]], dict[str, dict]] | None = None
    frames: int = 1
    digits: int = 3
    about: str = ""
    family: str = ""
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    when: Mapping[str, object] = dataclasses.field(default_factory=dict)


def each_frame(values_of: Callable[[Values], np.ndarray]) -> Callable[[Values], tuple[float, float]]:
    """A metric's `part` where every frame counts once: values_of gives a value for each."""

    def part(values: Values) -> tuple[float, float]:
        frames = values_of(values)
        return float(np.sum(frames)), len(frames)

    return part


def each_video(value_of: Callable[[Values], float]) -> Callable[[Values], tuple[float, float]]:
    """A metric's `part` where every video counts once, whatever its length."""
    return lambda values: (float(value_of(values)), 1.0)


def raw(name: str) -> Callable[[Values], np.ndarray]:
    """Raw values as they are."""
    return lambda values: values[name]
