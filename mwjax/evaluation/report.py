"""The report: JSON with every value, a Markdown table, and a page that opens from the file system."""

import dataclasses
import html
import json
import math
import pathlib
import urllib.parse
from collections.abc import Sequence

import numpy as np

from mwjax.data.files import write_whole
from mwjax.evaluation import control
from mwjax.evaluation.measure import Values
from mwjax.evaluation.scores import Metric, Score, of_video

TEMPLATE = pathlib.Path(__file__).resolve().parent.parent / "assets" / "report.html"

# Micro-World's Table 1 (image-to-world, Minecraft; videos of 81 frames at 352×640).
PUBLISHED = tuple(
    (f"published (Minecraft): {name}", dict(zip(("psnr", "lpips", "fvd", "keyboard", "camera", "temporal", "smoothness"), values, strict=True)))
    for name, values in (
        ("Micro-World I2W", (15.88, 0.4128, 175.371, 0.7224, 0.5055, 0.9629, 0.9750)),
        ("Oasis", (14.90, 0.5641, 596.986, 0.6474, 0.3770, 0.9589, 0.9875)),
    )
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: values of each video by name, their scores by metric, and the Fréchet distance of every prefix."""

    name: str
    videos: dict[str, Values]
    scores: dict[str, Score]
    prefixes: list[float]


def confusion(row: Row) -> dict[str, dict]:
    """Of every pair of keys, jump, yaw and pitch: the names of the classes, how many frames of each were read as each, and precision, recall and F1.

    Those never asked for are left out.
    """
    videos = [v for v in row.videos.values() if "asked_buttons" in v and "buttons" in v]
    out = {}
    if not videos:
        return out
    for task in control.OURS:
        names = ["none", *task]
        pairs = [[control.classes(v[which], task) for which in ("buttons", "asked_buttons")] for v in videos]
        table = control.confusion(*(np.concatenate(part) for part in zip(*pairs, strict=True)), len(names))
        if table[1:].any():
            out[control.task_name(task)] = {"names": names, "table": table.tolist(), "scores": control.macro_scores(table)}
    read, asked = (np.concatenate(part) for part in zip(*((control.bin_degrees(v["camera"]), v["asked_camera"]) for v in videos), strict=True))
    for axis, name, sides in ((1, "yaw", ("left", "right")), (0, "pitch", ("up", "down"))):
        classes = [(np.sign(a[:, axis]) * (np.abs(a[:, axis]) > control.STILL)).astype(int) % 3 for a in (read, asked)]  # 0 still, 1 positive, 2 negative
        table = control.confusion(*classes, 3)
        if table[1:].any():
            out[name] = {"names": ["still", sides[1], sides[0]], "table": table.tolist(), "scores": control.macro_scores(table)}
    return out


CURVES = {
    "PSNR, dB": ("mse", lambda a: np.where(a > 0, -10 * np.log10(np.maximum(a, 1e-12)), np.nan)), "SSIM": ("ssim", lambda a: a), "LPIPS": ("lpips", lambda a: a),
    "temporal consistency, from frame 1 on": ("similar", lambda a: np.maximum(a, 0).mean(-1)), "every second frame from its interpolation": ("smooth", lambda a: a),
    "mirrored frames apart, of 255; outermost pair first": ("scenario", lambda a: a),
}  # fmt: skip


def curves(row: Row, tasks) -> dict[str, list[float]]:
    """Means over videos, frame by frame."""
    out = {}
    for title, (name, change) in CURVES.items():
        lines = [change(v[name]) for v in row.videos.values() if name in v]
        if lines:
            there = np.isfinite(lines)  # frames that are equal have no PSNR
            out[title] = np.divide(np.where(there, lines, 0).sum(0), there.sum(0), out=np.full(len(lines[0]), np.nan), where=there.sum(0) > 0).tolist()
    videos = [v for v in row.videos.values() if "buttons" in v and "asked_buttons" in v]
    if row.prefixes:
        out["FVD by frames, from 10 on"] = row.prefixes
    if videos:
        out["keyboard precision"] = np.mean([control.task_hits(v["buttons"], v["asked_buttons"], tasks).mean(0) for v in videos], 0).tolist()
        out["camera precision"] = np.mean([control.camera_hits(control.bin_degrees(v["camera"]), v["asked_camera"]) for v in videos], 0).tolist()
    return out


def markdown(rows: Sequence[Row], metrics: Sequence[Metric], *, published: bool = True) -> str:
    """The table, with intervals; columns that no row has are left out."""
    shown = [m for m in metrics if any(m.key in row.scores for row in rows)]
    lines = ["| | " + " | ".join(f"{m.title} {'↑' if m.best > 0 else '↓'}" for m in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row.name.replace('|', chr(92) + '|')} | " + " | ".join(_cell(row.scores.get(m.key), m.key) for m in shown) + " |")
    if published:
        for name, scores in PUBLISHED:
            lines.append(f"| {name} | " + " | ".join(_number(scores[m.key], m.key) if m.key in scores else "–" for m in shown) + " |")
    return "\n".join(lines)


def _number(value: float, key: str) -> str:
    return "∞" if math.isinf(value) else f"{value:.{2 if key in ('psnr', 'fvd', 'fvd16') else 3}f}"


def _cell(score: Score | None, key: str) -> str:
    if score is None:
        return "–"
    return _number(score.value, key) + (f" [{_number(score.low, key)}, {_number(score.high, key)}]" if score.low != score.high else "")


def _plain(value):
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else None
    return value


def write(
    folder: pathlib.Path, rows: Sequence[Row], metrics: Sequence[Metric], *, title: str, about: str, tasks, files: dict[tuple[str, str], str],
    actions: dict[str, str], absent: Sequence[str], excluded: Sequence[str], settings: dict,
) -> list[pathlib.Path]:  # fmt: skip
    """Write report.json, report.md and report.html. files: (row, video) → path of what is shown, relative to the folder, or "". actions: what was asked of a video."""
    videos = [
        {"name": name, "row": row.name, "file": urllib.parse.quote(files[row.name, name]), "actions": actions.get(name, ""),
         "scores": {m.key: value for m in metrics if (value := of_video(m, values)) is not None}}
        for row in rows for name, values in row.videos.items() if (row.name, name) in files
    ]  # fmt: skip
    data = _plain({
        "title": title, "about": about, "settings": settings, "absent": list(absent), "excluded": list(excluded),
        "metrics": [{"key": m.key, "title": m.title, "best": m.best, "about": m.about} for m in metrics],
        "rows": [{"name": row.name, "scores": {k: dataclasses.asdict(s) for k, s in row.scores.items()}, "confusion": confusion(row),
                  "curves": curves(row, tasks)} for row in rows],
        "published": [{"name": name, "scores": scores} for name, scores in PUBLISHED], "videos": videos,
    })  # fmt: skip
    notes = [f"{heading}:\n\n" + "\n".join(f"- {line}" for line in lines) for heading, lines in (("Not computed", absent), ("Left out", excluded)) if lines]
    text = "\n\n".join([f"# {title}", about, markdown(rows, metrics), "In brackets: 95 % intervals by bootstrap over videos.", *notes]) + "\n"
    before, after = TEMPLATE.read_text().replace("<title>Evaluation", f"<title>{html.escape(title)}", 1).rsplit(">DATA<", 1)
    page = f"{before}>{json.dumps(data, ensure_ascii=False).replace('<', chr(92) + 'u003c')}<{after}"
    paths = []
    for name, content in (("report.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n"), ("report.md", text), ("report.html", page)):
        write_whole(folder / name, content)
        paths.append(folder / name)
    return paths
