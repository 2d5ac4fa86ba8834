"""From raw values of many videos to scores, with intervals by bootstrap over videos."""

from collections.abc import Collection, Sequence

import numpy as np

from mwjax.evaluation.metric import ASKED, Curve, Metric, Score, Values

RESAMPLES = 1000


def has(metric: Metric, values: Values) -> bool:
    """Whether a metric finds what it takes among the values of a video."""
    return all(name in values for name in metric.values)


def of_video(metric: Metric, values: Values) -> float | None:
    """The score of a single video; None where it cannot be computed or nothing was asked for."""
    if metric.part is None or not has(metric, values):
        return None
    total, weight = metric.part(values)
    return metric.finish(total / weight) if weight and np.isfinite(total) else None


def score(metric: Metric, videos: Sequence[Values], reference: Sequence[Values] = (), *, seed: int = 0) -> Score | None:
    """The score of a set of videos; None where no video has what it takes.

    reference: values of the reference videos, for metrics that compare sets. seed: of the bootstrap.
    """
    videos = [values for values in videos if has(metric, values)]
    if metric.score_set:
        return metric.score_set(videos, [values for values in reference if has(metric, values)], seed)
    sums, weights = np.array([metric.part(values) for values in videos]).reshape(-1, 2).T
    if weights.sum() == 0:
        return None
    picks = np.random.default_rng(seed).integers(len(videos), size=(RESAMPLES, len(videos)))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[picks].sum(1) / weights[picks].sum(1)
    ends = np.percentile(means[np.isfinite(means)], (2.5, 97.5))
    low, high = sorted(metric.finish(end) for end in ends)
    return Score(metric.finish(sums.sum() / weights.sum()), low, high, int(np.sum(weights > 0)))


def shuffled(videos: Sequence[Values], read: Collection[str], *, seed: int = 0) -> list[Values]:
    """The same videos, each held against what was asked of another one: what following by chance gives.

    read: names of the values that were read off the videos; no others are kept.
    """
    order = np.random.default_rng(seed).permutation(len(videos))
    other = dict(zip(order, np.roll(order, 1), strict=True))

    def asked(values: Values) -> Values:
        return {name: array for name, array in values.items() if name.startswith(ASKED)}

    def own(values: Values) -> Values:
        return {name: values[name] for name in read if name in values}

    return [own(values) | asked(videos[other[i]]) for i, values in enumerate(videos)]


def line(curve: Curve, videos: Sequence[Values], reference: Sequence[Values]) -> list[float]:
    """A curve of a set of videos, frame by frame; [] where there is none."""
    if curve.of_set:
        return curve.of_set(videos, reference)
    if not videos:
        return []
    lines = [curve.of_video(values) for values in videos]
    there = np.isfinite(lines)  # frames that are equal have no PSNR
    count = there.sum(0)
    total = np.where(there, lines, 0).sum(0)
    return np.divide(total, count, out=np.full(len(lines[0]), np.nan), where=count > 0).tolist()
