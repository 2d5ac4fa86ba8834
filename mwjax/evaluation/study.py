"""One evaluation: folders of videos in, a report out.

What is measured is kept in OUT/cache, so a stopped study carries on. Each report has rows for what bounds it: the
reference clips themselves (ceiling), the same videos held against what was asked of other videos (floor), the first
frame repeated.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import mwjax
from mwjax.data.actions import Actions, timeline
from mwjax.data.files import output_folder
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.video import read_header, read_video, write_video
from mwjax.errors import InputError
from mwjax.evaluation.cache import cached, fingerprint, identity
from mwjax.evaluation.labels import read_labels
from mwjax.evaluation.metric import ASKED, Measurement, Metric, Values
from mwjax.evaluation.report import Report, Row, Shown, make_row
from mwjax.evaluation.scores import shuffled
from mwjax.evaluation.selection import alike, headers_of, usual_frames

FIRST_FRAME = "first frame repeated"
REFERENCE = "reference"
SHUFFLED = "{}, shuffled actions"
SHOWN_HEIGHT = 240  # small videos are enlarged for the page
SHOWN_FPS = 16.0  # where a header says none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is to be scored, and how.

    videos: folders of NAME.mp4 by title, a row of the table each. out: where the cache and copies of the videos go.
    metrics: see metrics.choose. reference: folder of real clips NAME.mp4. actions: folder of what was asked for, see
    labels.read_labels. networks: loaded, by name, as the metrics need them (see `networks_of`); absent: of those that
    are not there, what they are and how to get them. frames: use the first so many, 0 for as many as most videos have.
    limit: at most so many videos of a folder, by name. collisions: clear keys that a collision kept from acting, as in
    training. label_offset: see control.labels. title, about: of the report; settings: more to note in it, as JSON.
    """

    videos: Mapping[str, pathlib.Path]
    out: pathlib.Path
    metrics: tuple[Metric, ...]
    reference: pathlib.Path | None = None
    actions: pathlib.Path | None = None
    networks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frames: int = 0
    limit: int = 500
    collisions: bool = True
    label_offset: int = 0
    title: str = ""
    about: str = ""
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for title in (REFERENCE, FIRST_FRAME):
            if title in self.videos:
                raise InputError(f"a row cannot be called {title!r}; rename {self.videos[title]}")
        if self.frames < 0:
            raise InputError(f"frames {self.frames} must be 0 (as many as most have) or more")
        if self.limit < 1:
            raise InputError(f"limit {self.limit} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A study looked at: frames of every clip, videos of every row, metrics that can be computed, networks' identities.

    absent, excluded: as in Report.
    """

    study: Study
    frames: int
    videos: Mapping[str, list[pathlib.Path]]
    metrics: tuple[Metric, ...]
    identities: Mapping[str, str]
    absent: tuple[str, ...]
    excluded: tuple[str, ...]

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What the metrics are made of, each once."""
        return tuple({metric.measurement.name: metric.measurement for metric in self.metrics}.values())


@dataclasses.dataclass(frozen=True)
class Subject:
    """Videos that make a row. beside: whether each is measured beside its reference. change: of its frames, before."""

    title: str
    paths: Sequence[pathlib.Path]
    beside: bool = True
    change: Callable[[np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Raw values and what is shown of every video of a row, by name; and what was left out of it."""

    videos: dict[str, Values]
    shown: dict[str, Shown]
    excluded: list[str]


def networks_of(metrics: Iterable[Metric], *, reference: bool, actions: bool) -> set[str]:
    """Names of the networks that metrics need, where there is a reference or are actions or not."""
    needs = [metric.measurement.needs for metric in metrics]
    return {n.network for n in needs if n.network and (reference or not n.reference) and (actions or not n.actions)}


def obstacle(metric: Metric, study: Study, frames: int, side: int) -> str:
    """What keeps a metric from being computed on videos of so many frames and pixels a side; "" for nothing."""
    needs = metric.measurement.needs
    least = max(needs.frames, metric.frames)
    if needs.reference and not study.reference:
        return "need --reference"
    if needs.actions and not study.actions:
        return "need --actions"
    if needs.network and needs.network not in study.networks:
        return f"needs {study.absent.get(needs.network, f'the network {needs.network!r}')}"
    if frames < least:
        return f"needs {least} frames, there are {frames}"
    if side < needs.side:
        return f"needs pictures of at least {needs.side}×{needs.side} pixels, there are some of {side}"
    return ""


def look(study: Study) -> Plan:
    """Headers are read, nothing is measured. Raises InputError where nothing could be."""
    headers = {title: headers_of(folder, study.limit) for title, folder in study.videos.items()}
    readable = [header for folder in headers.values() for header in folder.values() if header]
    frames = study.frames or usual_frames(readable)
    chosen = {title: alike(folder, frames, cut=study.frames > 0) for title, folder in headers.items()}
    sides = [min(header.height, header.width) for header in readable]
    reasons: dict[str, list[str]] = {}
    for metric in study.metrics:
        reason = obstacle(metric, study, frames, min(sides))
        if reason:
            reasons.setdefault(reason, []).append(metric.family or metric.title)
    absent = [f"{', '.join(dict.fromkeys(titles))}: {reason}" for reason, titles in reasons.items()]
    metrics = tuple(metric for metric in study.metrics if not obstacle(metric, study, frames, max(sides)))
    if not metrics:
        groups = " ".join(dict.fromkeys(metric.measurement.group for metric in study.metrics))
        raise InputError(f"nothing that --metrics {groups} asks for can be computed; {absent[0]}")
    return Plan(
        study=study,
        frames=frames,
        videos={title: paths for title, (paths, _) in chosen.items()},
        metrics=metrics,
        identities={name: identity(network) for name, network in study.networks.items()},
        absent=tuple(absent),
        excluded=tuple(line for _, lines in chosen.values() for line in lines),
    )


def measure_video(plan: Plan, subject: Subject, path: pathlib.Path) -> Values:
    """Everything that is measured on a video; it and its reference are read when first needed."""
    study = plan.study
    real = study.reference / path.name if study.reference and subject.beside else None
    if real and not real.exists():
        raise InputError(f"{real} is missing")
    read: dict[pathlib.Path, np.ndarray] = {}

    def frames_of(file: pathlib.Path) -> np.ndarray:
        if file not in read:
            read[file] = read_video(file, 0, plan.frames)
        return read[file]

    def run(measurement: Measurement, beside: pathlib.Path | None) -> dict:
        frames = frames_of(path)
        if min(frames.shape[1:3]) < measurement.needs.side:
            return {}
        frames = subject.change(frames) if subject.change else frames
        network = study.networks.get(measurement.needs.network)
        return measurement.run(network, frames, frames_of(beside) if beside else None)

    values = {}
    for measurement in plan.measurements:
        beside = real if measurement.needs.reference == "clip" else None
        if measurement.needs.reference == "clip" and not beside:
            continue
        key = {
            "video": fingerprint(path),
            "frames": plan.frames,
            "network": plan.identities.get(measurement.needs.network),
            "changed": subject.change is not None,
            **measurement.settings,
        }
        key |= {"reference": fingerprint(beside)} if beside else {}
        place = study.out / "cache" / subject.title / f"{path.stem}.{measurement.name}.npz"
        values |= cached(place, key, functools.partial(run, measurement, beside))
    return values


def show_video(plan: Plan, subject: Subject, path: pathlib.Path, actions: Actions | None) -> Shown:
    """A copy of a video for the page, with the keys drawn on, and what was asked of it in words."""
    held = ""
    if actions:
        lines = timeline(*actions).splitlines()[:-1]
        held = "; ".join(" ".join(line.split()[4:]) for line in lines)[:80]
    if subject.change:
        return Shown(actions=held)
    out = plan.study.out
    target = out / "videos" / subject.title / path.name
    stamp = out / "cache" / subject.title / f"{path.stem}.shown.npz"
    asked = np.concatenate(actions, 1) if actions else np.zeros(0)
    key = {"video": fingerprint(path), "frames": plan.frames, "asked": asked.tolist()}

    def draw() -> Values:
        header = read_header(path)
        frames = read_video(path, 0, plan.frames)
        frames = enlarge(frames, max(1, SHOWN_HEIGHT // frames.shape[1]))
        height, width = (side // 2 * 2 for side in frames.shape[1:3])
        frames = frames[:, :height, :width]
        fps = header.fps if header and header.fps else SHOWN_FPS
        write_video(target, draw_hud(frames, *actions) if actions else frames, fps=fps, crf=20)
        return {}

    if not target.exists():
        stamp.unlink(missing_ok=True)
    cached(stamp, key, draw)
    return Shown(str(target.relative_to(out)), held)


def measure(plan: Plan, subject: Subject) -> Measured:
    """Every video of a subject that can be scored. Raises InputError if there is none."""
    study = plan.study
    out = Measured({}, {}, [])
    for path in tqdm(subject.paths, desc=subject.title, unit="clip"):
        asked, actions = {}, None
        try:
            if study.actions:
                labels = study.actions / f"{path.stem}.json"
                asked, actions = read_labels(
                    labels, plan.frames, collisions=study.collisions, offset=study.label_offset
                )
            values = measure_video(plan, subject, path) | asked
            out.shown[path.stem] = show_video(plan, subject, path, actions)
            out.videos[path.stem] = values
        except InputError as error:
            out.excluded.append(f"{subject.title}, {path.stem}: {error}")
    if not out.videos:
        raise InputError(
            f"{subject.title}: none of the {len(subject.paths)} videos could be scored; the first: {out.excluded[0]}"
        )
    return out


def _first_frame(frames: np.ndarray) -> np.ndarray:
    return np.repeat(frames[:1], len(frames), 0)


def measure_all(plan: Plan) -> dict[str, Measured]:
    """Every row that is measured, by title: the folders, and what bounds them where there is a reference."""
    measured = {title: measure(plan, Subject(title, paths)) for title, paths in plan.videos.items()}
    if plan.study.reference:
        names = dict.fromkeys(name for row in measured.values() for name in row.videos)
        paths = [plan.study.reference / f"{name}.mp4" for name in names]
        reference = measure(plan, Subject(REFERENCE, paths, beside=False))
        measured[FIRST_FRAME] = measure(plan, Subject(FIRST_FRAME, paths, change=_first_frame))
        measured[REFERENCE] = reference
    return measured


def chance_row(plan: Plan, title: str, row: Measured) -> Row | None:
    """The same videos held against what was asked of others; None where nothing was, or of a single video."""
    metrics = [metric for metric in plan.metrics if metric.measurement.needs.actions]
    if not metrics or len(row.videos) < 2:
        return None
    read = dict.fromkeys(name for metric in metrics for name in metric.values if not name.startswith(ASKED))
    videos = dict(zip(row.videos, shuffled(list(row.videos.values()), read), strict=True))
    shown = {name: Shown(actions=row.shown[name].actions) for name in videos}
    return make_row(SHUFFLED.format(title), metrics, videos, shown)


def evaluate(study: Study) -> Report:
    """Measure and score. Raises InputError, before anything is measured, for what cannot be."""
    plan = look(study)
    output_folder(study.out)
    with jax.default_matmul_precision("highest"):
        measured = measure_all(plan)
    real = measured[REFERENCE].videos if study.reference else {}
    rows = []
    for title, row in measured.items():
        reference = [real[name] for name in row.videos if name in real and title != REFERENCE]
        rows.append(make_row(title, plan.metrics, row.videos, row.shown, reference))
        chance = chance_row(plan, title, row) if title in study.videos else None
        if chance:
            rows.append(chance)
    excluded = [*plan.excluded, *(line for row in measured.values() for line in row.excluded)]
    count = sum(len(measured[title].videos) for title in study.videos)
    about = f"{count} videos of {plan.frames} frames; {len(excluded)} left out. {study.about}"
    return Report(
        title=study.title or f"Evaluation of {', '.join(study.videos)}",
        about=about.strip(),
        metrics=study.metrics,
        rows=tuple(rows),
        absent=plan.absent,
        excluded=tuple(excluded),
        settings=_settings(plan),
    )


def _settings(plan: Plan) -> dict[str, object]:
    """How a study was done, as JSON."""
    study = plan.study
    return {
        "videos": {title: str(folder) for title, folder in study.videos.items()},
        "reference": str(study.reference) if study.reference else None,
        "actions": str(study.actions) if study.actions else None,
        "out": str(study.out),
        "metrics": list(dict.fromkeys(metric.measurement.group for metric in study.metrics)),
        "frames": plan.frames,
        "limit": study.limit,
        "collisions": study.collisions,
        "label_offset": study.label_offset,
        **study.settings,
        "mwjax": mwjax.__version__,
        "jax": jax.__version__,
    }
