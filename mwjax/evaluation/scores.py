"""From raw values of many videos to scores: every metric is a line of `metrics`. Intervals are by bootstrap over videos."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mwjax.evaluation import control, fvd, visual
from mwjax.evaluation.measure import Values
from mwjax.evaluation.networks import i3d

RESAMPLES = 1000
FVD_RESAMPLES, FVD_PREFIXES = 100, 8  # of its interval, which is costly


@dataclasses.dataclass(frozen=True)
class Score:
    """A value with its 95 % interval (both ends the value itself where there is one video)."""

    value: float
    low: float
    high: float
    videos: int


@dataclasses.dataclass(frozen=True)
class Metric:
    """parts(values of a video) gives (sum, weight); the score of a set is finish(Σ sums / Σ weights).

    part: the measurement it is made of, a name of measure.PARTS; needs: the raw values, by name. best: 1 if larger is better, −1 if smaller.
    """

    key: str
    title: str
    best: int
    needs: tuple[str, ...]
    part: str
    parts: Callable[[Values], tuple[float, float]]
    finish: Callable[[float], float] = float
    about: str = ""


def _mean(name: str, change: Callable = lambda a: a) -> Callable:
    return lambda v: (float(np.sum(change(v[name]))), v[name].shape[0])


def _one(value: Callable) -> Callable:
    """Every video counts once, whatever its length."""
    return lambda v: (float(value(v)), 1.0)


def _keyboard(tasks) -> Callable:
    return _one(lambda v: control.task_hits(v["buttons"], v["asked_buttons"], tasks).mean())


def _followed(task) -> Callable:
    def parts(v):
        asked, read = (control.classes(v[name], task) for name in ("asked_buttons", "buttons"))
        return float(np.sum((asked == read)[asked > 0])), float(np.sum(asked > 0))

    return parts


def _turned(axis: int) -> Callable:
    def parts(v):
        asked, read = v["asked_camera"][:, axis], control.bin_degrees(v["camera"][:, axis])
        turns = np.abs(asked) > control.STILL
        return float(np.sum((np.sign(asked) == np.sign(read))[turns])), float(np.sum(turns))

    return parts


CONTROL = ("buttons", "camera", "asked_buttons", "asked_camera")


def metrics(*, tasks: str = "matrix", conventional: bool = False) -> tuple[Metric, ...]:
    """All metrics. tasks: a name of control.TASKS. conventional: PSNR as the mean over frames, not of one error over everything."""
    per_frame = Metric("psnr", "PSNR, dB", 1, ("mse",), "frames", _mean("mse", lambda mse: -10 * np.log10(np.maximum(mse, 1e-12))), about="mean over frames")
    overall = Metric("psnr", "PSNR, dB", 1, ("mse",), "frames", _mean("mse"), visual.psnr, "of the mean squared error over all frames of all videos")
    degrees = lambda v: control.bin_degrees(v["camera"])
    lists = ", ".join(map(control.task_name, control.TASKS[tasks]))
    return (
        per_frame if conventional else overall,
        Metric("ssim", "SSIM", 1, ("ssim",), "frames", _mean("ssim")),
        Metric("lpips", "LPIPS", -1, ("lpips",), "lpips", _mean("lpips")),
        Metric("fvd", "FVD", -1, ("logits",), "fvd", _one(lambda v: np.nan), about="mean over all prefixes from 10 frames on"),
        Metric("fvd16", "FVD of 16 frames", -1, ("logits",), "fvd", _one(lambda v: np.nan)),
        Metric("keyboard", "keyboard precision", 1, CONTROL, "control", _keyboard(control.TASKS[tasks]), about=f"mean over the tasks {lists}"),
        Metric("camera", "camera precision", 1, CONTROL, "control", _one(lambda v: control.camera_hits(degrees(v), v["asked_camera"]).mean()), about="nine directions"),
        Metric("camera_loss", "camera loss, bins", -1, CONTROL, "control", _one(lambda v: control.camera_loss(degrees(v), v["asked_camera"]))),
        Metric("temporal", "temporal consistency", 1, ("similar",), "temporal", _mean("similar", lambda s: np.maximum(s, 0).mean(-1))),
        Metric("smoothness", "motion smoothness", 1, ("smooth",), "smoothness", _one(lambda v: (255 - v["smooth"].mean()) / 255)),
        Metric("scenario", "scenario consistency", 1, ("scenario",), "scenario", _one(lambda v: np.clip(1 - v["scenario"].mean() / 255, 0, 1)),
               about="meant for actions that go back the way they came"),
        *(Metric(key, title, 1, CONTROL, "control", parts, about="on the frames where it is asked for") for key, title, parts in (
            ("walk", "back/forward followed", _followed(("back", "forward"))), ("strafe", "left/right followed", _followed(("left", "right"))),
            ("jump", "jump followed", _followed(("jump",))), ("sneak", "sneak/sprint followed", _followed(("sneak", "sprint"))),
            ("yaw", "yaw followed", _turned(1)), ("pitch", "pitch followed", _turned(0)))),
    )  # fmt: skip


def has(metric: Metric, values: Values) -> bool:
    return all(name in values for name in metric.needs)


def of_video(metric: Metric, values: Values) -> float | None:
    """The score of a single video; None where it cannot be computed or nothing was asked for."""
    if not has(metric, values):
        return None
    total, weight = metric.parts(values)
    return metric.finish(total / weight) if weight and np.isfinite(total) else None


def score(metric: Metric, videos: Sequence[Values], reference: Sequence[Values] = (), *, seed: int = 0) -> Score | None:
    """The score of a set of videos; None where no video has what it needs. reference: values of the reference videos, for FVD."""
    videos = [v for v in videos if has(metric, v)]
    if metric.key.startswith("fvd"):
        return _fvd(metric.key, videos, [v for v in reference if has(metric, v)], seed)
    sums, weights = np.array([metric.parts(v) for v in videos]).reshape(-1, 2).T
    if weights.sum() == 0:
        return None
    picks = np.random.default_rng(seed).integers(len(videos), size=(RESAMPLES, len(videos)))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[picks].sum(1) / weights[picks].sum(1)
    ends = sorted(metric.finish(m) for m in np.percentile(means[np.isfinite(means)], (2.5, 97.5)))  # finish is monotonic
    return Score(metric.finish(sums.sum() / weights.sum()), *ends, int(np.sum(weights > 0)))


def fvd_by_prefix(videos: Sequence[Values], reference: Sequence[Values]) -> list[float]:
    """The Fréchet distance of every prefix, the shortest (10 frames) first; [] where there are no logits."""
    sets = [[v["logits"] for v in part if "logits" in v] for part in (videos, reference)]
    if not all(sets):
        return []
    return [fvd.frechet(np.stack(a), np.stack(b)) for a, b in zip(*(zip(*part, strict=True) for part in sets), strict=True)]


def _fvd(key: str, videos: list[Values], reference: list[Values], seed: int) -> Score | None:
    """FVD over all prefixes, or of the first 16 frames. The interval is ±1.96 deviations over resamples of both sets."""
    if not videos or not reference:
        return None
    sets = [np.stack([v["logits"] for v in part]) for part in (videos, reference)]
    sixteen = 16 - i3d.LEAST_FRAMES
    if key == "fvd16":
        if sets[0].shape[1] <= sixteen:
            return None
        sets = [s[:, sixteen : sixteen + 1] for s in sets]
    prefixes = range(sets[0].shape[1])
    distance = lambda a, b, chosen: float(np.mean([fvd.frechet(a[:, p], b[:, p]) for p in chosen]))
    value, rng = distance(*sets, prefixes), np.random.default_rng(seed)
    few = np.unique(np.linspace(0, len(prefixes) - 1, FVD_PREFIXES).astype(int))
    drawn = [distance(*(s[rng.integers(len(s), size=len(s))] for s in sets), few) for _ in range(FVD_RESAMPLES if min(map(len, sets)) > 3 else 0)]
    spread = 1.96 * float(np.std(drawn)) if drawn else 0.0
    return Score(value, value - spread, value + spread, len(videos))


def shuffled(videos: Sequence[Values], *, seed: int = 0) -> list[Values]:
    """The same videos, each held against what was asked of another one: what following by chance gives."""
    order = np.random.default_rng(seed).permutation(len(videos))
    other = dict(zip(order, np.roll(order, 1), strict=True))
    asked = lambda v: {k: a for k, a in v.items() if k.startswith("asked_")}
    return [{k: v[k] for k in ("buttons", "camera") if k in v} | asked(videos[other[i]]) for i, v in enumerate(videos)]
