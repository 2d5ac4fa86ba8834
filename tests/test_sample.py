"""Sampling, from the command a user types."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from small import refused

from mwjax import sample
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.schedules import SHOWCASE, hold, showcase
from mwjax.data.video import read_video

ROOT = pathlib.Path(__file__).resolve().parent.parent


def command(*arguments) -> subprocess.CompletedProcess:
    env = {
        name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"
    }  # the package's own choice is meant
    return subprocess.run(
        [sys.executable, "-m", "mwjax.sample", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


def test_the_shipped_model_samples_the_same_video_twice(tmp_path):
    for name in ("a", "b"):
        out = command(
            "--model",
            "tiny",
            "--actions",
            '[[4, "1 0 0 0 0 0 0 0 3"], ""]',
            "--steps",
            3,
            "--out",
            tmp_path / f"{name}.mp4",
        )
        assert out.returncode == 0, out.stderr
        assert f"{name}.mp4" in out.stdout
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_video(tmp_path / "a.mp4").shape == (5, 384, 640, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.mp4", "b.json", "b.mp4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--actions", '[[8, "1 0 0 0 0 0 0 0 0"], [4, "1 0 0 0 0 0 0 0 0"], ""]'], "in order"),
        (["--actions", '[[6, "1 0 0 0 0 0 0 0 0"], ""]'], "7 frames are not of the form 4n + 1"),
        (["--width", 90], "width 90 is not a multiple of 16"),
        (["--model", "nowhere"], "nowhere"),
        (["--out", "video.avi"], "must end in .mp4"),
        (["--steps", 0], "--steps is 0; it must be a whole number from 1 to 1000"),
        (["--teacache", 0.1], "no published polynomial"),
        (["--guidance-skip", 2], "--guidance-skip is 2.0; it must be a number from 0 to 1"),
        (["--tile", 30], "--tile 30"),
        (["--lora", "nowhere.safetensors:0.5"], "nowhere.safetensors is not there"),
        (["--jobs", "nowhere.jsonl"], "--jobs nowhere.jsonl is missing"),
        (["--image", "first.png"], "takes no image"),
    ],
)
def test_wrong_inputs_end_in_one_line_and_exit_code_2(arguments, says, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    refused(sample.main, ["--model", "tiny", *arguments], says, capsys)


def test_a_kernel_that_does_not_work_here_is_one_line():
    out = command("--model", "tiny", "--attention", "cudnn")
    assert out.returncode == 2, out.stderr
    assert "does not work here" in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_hud_lights_pressed_keys():
    frames = np.zeros((3, 96, 160, 3), np.uint8)
    keyboard, mouse = hold(3, keys="w", yaw=4)
    out = draw_hud(frames, keyboard, mouse)
    np.testing.assert_array_equal(frames, 0)
    assert out[0].max() < 255 or (out[0] != out[1]).any()
    assert (out[1].astype(int) - out[0].astype(int)).max() > 100
    assert enlarge(frames, 2).shape == (3, 192, 320, 3)


def test_showcase_has_a_schedule_per_name():
    assert len(showcase(17)) == len(SHOWCASE)
    assert all(not k[0].any() and not m[0].any() for k, m in showcase(17))
