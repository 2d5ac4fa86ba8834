"""The report: JSON with every value, a Markdown table, and a page that opens from the file system."""

import dataclasses
import html
import json
import math
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

from mwjax.data.files import write_whole
from mwjax.evaluation.metric import Metric, Score, Values
from mwjax.evaluation.scores import has, line, of_video, score

TEMPLATE = pathlib.Path(__file__).resolve().parent.parent / "assets" / "report.html"

# Rows of Micro-World's Table 1 (image-to-world, Minecraft; videos of 81 frames at 352×640), by Metric.published.
PUBLISHED = "published (Minecraft): {}"


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows of a video: its file, relative to the report, "" for none; and what was asked of it."""

    file: str = ""
    actions: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    videos: raw values by name of the video. scores: by key of the metric. curves: by title, frame by frame. confusions:
    which actions were read as which, see Metric.
    """

    name: str
    videos: Mapping[str, Values]
    shown: Mapping[str, Shown]
    scores: Mapping[str, Score]
    curves: Mapping[str, list[float]]
    confusions: Mapping[str, dict]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a study. absent: what was asked for and could not be computed, and what would change that.

    excluded: videos that were left out, and why. settings: how it was done, as JSON.
    """

    title: str
    about: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    absent: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


def make_row(
    name: str,
    metrics: Sequence[Metric],
    videos: Mapping[str, Values],
    shown: Mapping[str, Shown],
    reference: Sequence[Values] = (),
) -> Row:
    """The line of a set of videos: every metric that their values allow. reference: values of the real clips."""
    scores, curves, confusions = {}, {}, {}
    for metric in metrics:
        there = [values for values in videos.values() if has(metric, values)]
        if not there:
            continue
        real = [values for values in reference if has(metric, values)]
        found = score(metric, there, real)
        if found:
            scores[metric.key] = found
        if metric.curve and (frames := line(metric.curve, there, real)):
            curves[metric.curve.title] = frames
        if metric.confusions:
            confusions |= metric.confusions(there)
    return Row(name=name, videos=videos, shown=shown, scores=scores, curves=curves, confusions=confusions)


def published(metrics: Sequence[Metric]) -> dict[str, dict[str, float]]:
    """Rows of the published table: scores by name of the row and key of the metric."""
    models = dict.fromkeys(model for metric in metrics for model in metric.published)
    return {
        PUBLISHED.format(model): {m.key: m.published[model] for m in metrics if model in m.published}
        for model in models
    }


def markdown(report: Report, *, beside_published: bool = True) -> str:
    """The table, with intervals; columns that no row has are left out."""
    shown = [metric for metric in report.metrics if any(metric.key in row.scores for row in report.rows)]
    heads = [f"{metric.title} {'↑' if metric.better > 0 else '↓'}" for metric in shown]
    lines = ["| " + _table_line(heads), "|---" * (len(shown) + 1) + "|"]
    for row in report.rows:
        name = row.name.replace("|", "\\|")
        lines.append(_table_line([name, *(_cell(row.scores.get(metric.key), metric.digits) for metric in shown)]))
    if beside_published:
        for name, scores in published(report.metrics).items():
            values = [_number(scores[m.key], m.digits) if m.key in scores else "–" for m in shown]
            lines.append(_table_line([name, *values]))
    return "\n".join(lines)


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float, digits: int) -> str:
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _cell(score: Score | None, digits: int) -> str:
    if score is None:
        return "–"
    value = _number(score.value, digits)
    if score.low == score.high:
        return value
    return f"{value} [{_number(score.low, digits)}, {_number(score.high, digits)}]"


def summary(report: Report) -> str:
    """What to print: the table, what is not computed, what is left out."""
    lines = [f"not computed: {line}" for line in report.absent]
    lines += [f"left out: {line}" for line in report.excluded]
    return "\n".join([markdown(report, beside_published=False), *lines])


def _plain(value):
    """JSON has no infinity and no NaN."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else None
    return value


def _videos(report: Report, row: Row) -> list[dict]:
    """Every video of a row as the page lists it."""
    out = []
    for name, values in row.videos.items():
        scores = {metric.key: of_video(metric, values) for metric in report.metrics}
        out.append(
            {
                "name": name,
                "row": row.name,
                "file": urllib.parse.quote(row.shown[name].file),
                "actions": row.shown[name].actions,
                "scores": {key: value for key, value in scores.items() if value is not None},
            }
        )
    return out


def as_json(report: Report) -> dict:
    """All of a report but the raw values."""
    metrics = [
        {"key": m.key, "title": m.title, "better": m.better, "digits": m.digits, "about": m.about}
        for m in report.metrics
    ]
    rows = [
        {
            "name": row.name,
            "scores": {key: dataclasses.asdict(score) for key, score in row.scores.items()},
            "confusion": row.confusions,
            "curves": row.curves,
        }
        for row in report.rows
    ]
    data = {
        "title": report.title,
        "about": report.about,
        "settings": report.settings,
        "absent": report.absent,
        "excluded": report.excluded,
        "metrics": metrics,
        "rows": rows,
        "published": [{"name": name, "scores": scores} for name, scores in published(report.metrics).items()],
        "videos": [video for row in report.rows for video in _videos(report, row)],
    }
    return _plain(data)


def as_text(report: Report) -> str:
    """The report in Markdown."""
    parts = [f"# {report.title}", report.about, markdown(report)]
    parts.append("In brackets: 95 % intervals by bootstrap over videos.")
    for heading, lines in (("Not computed", report.absent), ("Left out", report.excluded)):
        if lines:
            parts.append(f"{heading}:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def as_page(report: Report) -> str:
    """The report as one HTML file, which needs nothing but the videos beside it."""
    title = html.escape(report.title)
    before, after = TEMPLATE.read_text().replace("<title>Evaluation", f"<title>{title}", 1).rsplit(">DATA<", 1)
    data = json.dumps(as_json(report), ensure_ascii=False).replace("<", "\\u003c")
    return f"{before}>{data}<{after}"


def write(report: Report, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write report.json, report.md and report.html."""
    files = {
        "report.json": json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n",
        "report.md": as_text(report),
        "report.html": as_page(report),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]
