"""What the accelerator benchmark found, as JSON (SI units, unrounded) and as a Markdown table. Needs no package."""

import dataclasses
import json
import os
import pathlib


class NotRun(Exception):
    """A part cannot be run here; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    what: of what; by: by which code. seconds: of a call, the median of several after compiling. flops: useful
    operations of a call, a multiply-add is two. memory: bytes at the peak on the device, of the whole process so far;
    predicted: by the compiler, before anything ran. compile_seconds: tracing included.
    """

    what: str
    by: str = "mwjax"
    seconds: float | None = None
    flops: int | None = None
    memory: int | None = None
    predicted: int | None = None
    compile_seconds: float | None = None
    note: str = ""


COLUMNS = (
    "part",
    "what",
    "by",
    "ms",
    "TFLOP/s",
    "of peak",
    "peak memory, GB",
    "predicted, GB",
    "compiled in, s",
    "note",
)


def cells(part: str, row: dict, peak: float | None) -> tuple[str, ...]:
    """A row by COLUMNS. peak: FLOP/s of the device, if it is known."""
    seconds, flops = row["seconds"], row["flops"]
    rate = flops / seconds if seconds and flops else None
    numbers = (
        (seconds, 1e3, ".4g"),
        (rate, 1e-12, ".3g"),
        (rate / peak if rate and peak else None, 1, ".1%"),
        (row["memory"], 1e-9, ".2f"),
        (row["predicted"], 1e-9, ".2f"),
        (row["compile_seconds"], 1, ".1f"),
    )
    texts = ("" if value is None else format(value * unit, shape) for value, unit, shape in numbers)
    return (part, row["what"], row["by"], *texts, row["note"])


def in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def markdown(report: dict) -> str:
    """The whole report: the device, then a line for every row, and for every part that has none or did not end well."""
    about = report["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    software = f"{versions}; {about.get('driver', 'driver unknown')}"
    lines = [f"# {about.get('device', 'Unknown device')}", "", software, ""]
    if about.get("peak"):
        lines += [f"Peak: {about['peak'] / 1e12:.0f} TFLOP/s in bfloat16, by the data sheet.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, part in report["parts"].items():
        rows = [cells(name, row, about.get("peak")) for row in part["rows"]]
        if part["state"] != "done":
            rows.append((name, *[""] * (len(COLUMNS) - 2), part["state"]))
        lines += [f"| {' | '.join(map(in_a_cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def write(folder: pathlib.Path, report: dict) -> None:
    """results.json and results.md; each is replaced as a whole."""
    for name, text in (("results.json", json.dumps(report, indent=1) + "\n"), ("results.md", markdown(report))):
        part = folder / f"{name}.part"
        part.write_text(text)
        os.replace(part, folder / name)


def read(folder: pathlib.Path) -> dict:
    """What is there from a run before, or an empty report."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else {"about": {}, "parts": {}}
