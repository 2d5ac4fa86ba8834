"""Curves: metrics.csv (exact, survives a restart), TensorBoard events, and a picture of the loss."""

import contextlib
import csv
import importlib.util
import io
import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageDraw

from mwjax.data.files import write_whole
from mwjax.errors import InputError


class Metrics:
    """Scalars of one stage. Rows after `resume_step` of an earlier run are dropped. Of several processes, only the
    first writes.

    wandb: a project to log to as well (needs the extra "wandb").
    """

    def __init__(self, folder: str | pathlib.Path, *, resume_step: int, wandb: str = ""):
        self.folder = pathlib.Path(folder)
        self._silent = jax.process_index() > 0
        if self._silent:
            return
        self._run = _wandb_run(wandb, self.folder) if wandb else None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.csv"
        self.rows = [row for row in _read(self.path) if row["step"] <= resume_step]
        self._write()
        self._board = _summary_writer()(str(self.folder / "tensorboard"), purge_step=resume_step + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        if self._silent:
            return
        row = {"step": step} | {k: float(v) for k, v in values.items()}
        same = bool(self.rows) and self.rows[-1].keys() == row.keys()
        self.rows.append(row)
        if not same:  # the first, or one with other columns
            self._write()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns()).writerow(row)
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)
        if self._run:
            self._run.log(row, step=step)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def _write(self) -> None:
        text = io.StringIO()
        if self.rows:
            table = csv.DictWriter(text, self._columns())
            table.writeheader()
            table.writerows(self.rows)
        write_whole(self.path, text.getvalue())

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # what came first is what is told
            self.close()

    def close(self) -> pathlib.Path | None:
        """Draw loss.png and return its path."""
        if self._silent:
            return None
        self._board.close()
        if self._run:
            self._run.finish()
        if not self.rows:
            return None
        path = self.folder / "loss.png"
        finite = np.array([(r["step"], r["loss"]) for r in self.rows if np.isfinite(r.get("loss", np.nan))])
        if not len(finite):
            return None
        plot(*finite.T).save(path)
        return path


def check_wandb(project: str) -> None:
    """Raises InputError if there is a project but no package."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError('--wandb needs the package: pip install -e ".[wandb]"')


def _wandb_run(project: str, folder: pathlib.Path):
    """One run a stage folder, continued when the stage is."""
    import wandb

    name = "-".join(folder.resolve().parts[-2:])
    return wandb.init(project=project, id=name, name=name, dir=str(folder), resume="allow")


def _summary_writer() -> type:
    """tensorboardX's writer. It imports torch where that is installed, for what is not used here: two seconds and
    180 MB."""
    there = "torch" in sys.modules
    sys.modules.setdefault("torch", None)
    try:
        from tensorboardX import SummaryWriter
    finally:
        if not there:
            del sys.modules["torch"]
    return SummaryWriter


def _read(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of an earlier run, up to the first that is not whole: one cut off by a kill, or damaged since."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file, contextlib.suppress(csv.Error):
        for row in csv.DictReader(file):
            try:
                numbers = {k: int(v) if k == "step" else float(v) for k, v in row.items() if v != ""}
            except (TypeError, ValueError):
                break
            if "step" not in numbers or None in numbers or (rows and numbers["step"] <= rows[-1]["step"]):
                break
            rows.append(numbers)
    return rows


def plot(steps: np.ndarray, values: np.ndarray, *, width: int = 640, height: int = 320) -> Image.Image:
    """A line chart with the first and last step, the lowest and highest value, and a running mean in blue."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 60, 12, width - 12, height - 28
    finite = values[np.isfinite(values)]
    low, high = 0.0, 1.0
    if finite.size:
        low, high = float(finite.min()), float(np.percentile(finite, 99.5))
    if high <= low:
        high = low + 1
    window = max(len(values) // 50, 1)
    smooth = np.convolve(np.pad(values, (window - 1, 0), mode="edge"), np.ones(window) / window, "valid")

    def points(series):
        x = left + (steps - steps[0]) / max(steps[-1] - steps[0], 1) * (right - left)
        y = bottom - (np.clip(series, low, high) - low) / (high - low) * (bottom - top)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    draw.rectangle((left, top, right, bottom), outline="#999999")
    draw.line(points(values), fill="#bbccdd")
    draw.line(points(smooth), fill="#1155aa", width=2)
    for y, value in ((bottom, low), (top, high)):
        draw.text((4, y - 6), f"{value:.4g}", fill="black")
    draw.text((left, bottom + 8), f"step {steps[0]:.0f}", fill="black")
    draw.text((right - 60, bottom + 8), f"{steps[-1]:.0f}", fill="black")
    return picture
