"""The accelerator benchmark at toy sizes: what it writes, what it imports, and what a part that goes wrong costs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from small import one_device

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "experiments/benchmarks"
SCRIPT = BENCHMARKS / "accelerator.py"

# Imported by Python as it starts: a machine where only jax, flax, optax, einops and jaxtyping are installed.
BARE = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in "{names}".split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
MISSING = "av diffusers grain imageio ml_collections orbax PIL safetensors tensorboardX torch tqdm transformers"

# Two parts more: one whose process dies, one that does not end.
WRONG = """
import os, time
from accelerator_parts.report import Row

def crash(*, tiny, attention):
    yield Row(what="before the crash")
    os.abort()

def late(*, tiny, attention):
    yield Row(what="in time")
    time.sleep(600)
"""
WRONG_LINES = """
    "crash": Part("a part that crashes", "wrong:crash", (), 60),
    "late": Part("a part that is late", "wrong:late", (), 4),
"""


def run(out: pathlib.Path, *options: str, script: pathlib.Path = SCRIPT, path: pathlib.Path = ROOT) -> dict:
    """The report of a run."""
    environment = one_device() | {"PYTHONPATH": os.pathsep.join(map(str, (path, ROOT)))}
    command = [sys.executable, str(script), "--tiny", "--out", str(out), *options]
    printed = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    assert (out / "results.md").read_text() in printed.stdout
    return json.loads((out / "results.json").read_text())


def test_parts_run_where_little_is_installed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE.replace("{names}", MISSING))
    out = tmp_path / "results"
    report = run(out, "--parts", "velocity_t2w", "attention_torch", path=tmp_path)
    states = {name: part["state"] for name, part in report["parts"].items()}
    missing = "not run: torch is not installed"
    assert states == {"device": "done", "attention_torch": missing, "velocity_t2w": "done"}
    (row,) = report["parts"]["velocity_t2w"]["rows"]
    assert row["what"] == "velocity of T2W-1.3B, 5×32×48"
    assert row["by"] == "mwjax, xla"
    assert row["note"] == ""
    for number in ("seconds", "flops", "predicted", "compile_seconds"):
        assert row[number] > 0
    assert report["about"]["device"] == "1 × cpu"
    assert "jax" in report["about"]["versions"]
    text = (out / "results.md").read_text()
    assert "| velocity_t2w | velocity of T2W-1.3B, 5×32×48 | mwjax, xla | " in text
    assert f"| attention_torch |{'  |' * 8} {missing} |" in text


def test_a_part_that_goes_wrong_costs_itself_alone(tmp_path):
    script = tmp_path / "accelerator.py"
    script.write_text(SCRIPT.read_text().replace("PARTS = {", "PARTS = {" + WRONG_LINES))
    shutil.copytree(BENCHMARKS / "accelerator_parts", tmp_path / "accelerator_parts")
    (tmp_path / "accelerator_parts/wrong.py").write_text(WRONG)
    parts = run(tmp_path / "results", "--parts", "crash", "late", script=script)["parts"]
    assert [row["what"] for row in parts["crash"]["rows"]] == ["before the crash"]
    assert parts["crash"]["state"] == "failed: exit code -6, see crash.log"
    assert [row["what"] for row in parts["late"]["rows"]] == ["in time"]
    assert parts["late"]["state"] == "stopped after 4 s"
    assert parts["device"]["state"] == "done"


def test_without_time_nothing_is_begun_and_what_is_there_stays(tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    there = {"about": {"device": "1 × card"}, "parts": {"attention": {"state": "done", "seconds": 9.0, "rows": []}}}
    (out / "results.json").write_text(json.dumps(there))
    report = run(out, "--minutes", "0", "--parts", "attention", "vae_decode")
    states = {name: part["state"] for name, part in report["parts"].items()}
    up = "not run: time is up"
    assert states == {"attention": "done", "device": up, "vae_decode": up}
    assert (out / "results.md").read_text().startswith("# 1 × card\n")
