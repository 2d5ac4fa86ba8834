"""Two processes train together and give what one gives."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(out: pathlib.Path, *arguments) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"MWJAX_TEST_OUT": str(out)}
    command = [sys.executable, "-m", "mwjax.train", "--config", "tests/small_config.py", "--config.stages.0.steps=4", "--config.stages.1.steps=4", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes: subprocess.Popen) -> list[str]:
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def losses(path: pathlib.Path) -> np.ndarray:
    return np.array([float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    two = [start(tmp_path / "two", "--coordinator", address, "--processes", "2", "--process", str(i)) for i in range(2)]
    outputs = finish(*two)
    assert "2 processes" in outputs[0]
    assert "wrote" not in outputs[1]
    finish(start(tmp_path / "one", f"--config.dataset={tmp_path / 'two' / 'dataset'}"))
    for stage in ("lora", "action"):
        one, both = (losses(tmp_path / name / stage / "metrics.csv") for name in ("one", "two"))
        assert len(one) == len(both) == 4
        np.testing.assert_allclose(both, one, rtol=1e-5)
    files = [sorted(p.name for p in (tmp_path / name / "samples").iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
