"""Whole runs as processes: killed at any moment, and two together, they end as one that nobody disturbed."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from small import one_device

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = {"lora": 8, "action": 12}  # and their steps
pytestmark = pytest.mark.slow


def start(out: pathlib.Path, *arguments) -> subprocess.Popen:
    environment = one_device() | {"MWJAX_TEST_OUT": str(out), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "mwjax.train", "--config", "tests/small_config.py", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(*processes: subprocess.Popen) -> list[str]:
    outputs = [process.communicate(timeout=400)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(out))
    return out


def losses(run: pathlib.Path, stage: str) -> list[str]:
    return [line.split(",")[1] for line in (run / stage / "metrics.csv").read_text().splitlines()[1:]]


def samples(run: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (run / "samples").iterdir())


def test_killed_at_any_moment_a_run_ends_bit_identical(whole, tmp_path):
    """Hard, five times, and once told to stop, which it does of its own accord: within two seconds of the beginning
    of each part of the work."""
    out, killed, rng = whole, tmp_path / "run", random.Random(0)
    for part in ("recording", "encoding", "stage lora", "stop", "stage action", "sampling"):
        process, seen = start(killed), b""
        while (b"stage lora:" if part == "stop" else f"{part}:".encode()) not in seen:
            seen += process.stdout.read1() or pytest.fail(f"no {part} in {seen.decode()}")
        time.sleep(rng.uniform(0, 2))
        os.killpg(process.pid, signal.SIGTERM if part == "stop" else signal.SIGKILL)
        rest = process.communicate(timeout=300)[0].decode()
        assert "done in" not in rest
        if part == "stop":
            assert process.returncode == 0, rest
            assert "carries on" in rest
    finish(start(killed))
    files = sorted(
        p.relative_to(out)
        for folder in ("model", "dataset", "latents")
        for p in (out / folder).rglob("*")
        if p.is_file()
    )
    assert len(files) > 20
    for name in files:
        assert (out / name).read_bytes() == (killed / name).read_bytes(), name
    assert samples(out) == samples(killed)
    assert not list(killed.rglob("*.part"))
    for stage in STAGES:
        assert losses(out, stage) == losses(killed, stage)


def test_two_processes_give_the_losses_of_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    two = [start(tmp_path / "two", "--coordinator", address, "--processes", "2", "--process", str(i)) for i in range(2)]
    outputs = finish(*two)
    assert "2 processes" in outputs[0]
    assert "wrote" not in outputs[1]
    for stage, steps in STAGES.items():
        assert len(losses(whole, stage)) == steps
        np.testing.assert_allclose(
            np.array(losses(tmp_path / "two", stage), float), np.array(losses(whole, stage), float), rtol=1e-5
        )
    assert samples(whole) == samples(tmp_path / "two")
