"""From labels and raw values to scores."""

import pathlib

import numpy as np
import pytest

from mwjax.errors import InputError
from mwjax.evaluation import control, metrics
from mwjax.evaluation.metric import Metric
from mwjax.evaluation.scores import score, shuffled


def by_key(**options) -> dict[str, Metric]:
    return {metric.key: metric for metric in metrics.choose(**options)}


def test_labels():
    keyboard, mouse = np.zeros((5, 7), np.float32), np.zeros((5, 2), np.float32)
    keyboard[1:, 0] = keyboard[2, 4] = 1  # w, and space at frame 2
    mouse[3] = -1.5, 4
    buttons, camera = control.labels((keyboard, mouse))
    assert buttons[:, control.BUTTONS.index("forward")].tolist() == [0, 1, 1, 1, 1]
    assert buttons[:, control.BUTTONS.index("jump")].tolist() == [0, 0, 1, 0, 0]
    assert control.direction(camera).tolist() == [0, 0, 0, control.DIRECTIONS.index("up right"), 0]
    later, _ = control.labels((keyboard, mouse), offset=1)
    assert later[:, control.BUTTONS.index("jump")].tolist() == [0, 1, 0, 0, 0]
    assert control.classes(buttons, ("back", "forward")).tolist() == [0, 2, 2, 2, 2]


def values(rng, right: bool) -> dict:
    """Of one video: walked one way or the other, and turned with it, as asked or the other way."""
    asked = np.zeros((9, 20), int)
    asked[1:, 2] = rng.integers(2)
    asked[1:, 1] = 1 - asked[1:, 2]
    camera = np.full((9, 2), 5)
    camera[:, 1] = 8 if asked[1, 2] else 2
    degrees = control.bin_degrees(camera)
    return {
        "buttons": asked if right else 1 - asked,
        "camera": camera,
        "asked_buttons": asked,
        "asked_camera": degrees if right else -degrees,
        "mse": np.full(9, 0.01 * (1 + rng.random())),
        "ssim": rng.random(9),
    }


def test_scores_and_intervals():
    rng = np.random.default_rng(0)
    videos = [values(rng, right=i % 4 > 0) for i in range(40)]
    metric = by_key()
    walk = score(metric["walk"], videos)
    assert walk.value == 0.75
    assert walk.low < 0.75 < walk.high
    assert walk.high - walk.low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.25)
    assert score(metric["walk"], videos) == walk  # the same every time
    assert score(metric["yaw"], videos).value == 0.75
    errors = [v["mse"] for v in videos]
    assert score(metric["psnr"], videos).value == pytest.approx(-10 * np.log10(np.mean(errors)))
    per_frame = score(by_key(conventional=True)["psnr"], videos)
    assert per_frame.value == pytest.approx(np.mean(-10 * np.log10(errors)))
    assert score(metric["lpips"], videos) is None
    assert score(metric["jump"], videos) is None  # never asked for
    right = [values(rng, right=True) for _ in range(40)]
    chance = score(metric["walk"], shuffled(right, ("buttons", "camera")))
    assert chance.value < 0.8 < score(metric["walk"], right).low


def test_fvd_of_sets():
    rng = np.random.default_rng(0)

    def videos(mean: float) -> list[dict]:
        return [{"logits": rng.normal(mean, 1, (8, 400))} for _ in range(6)]

    metric = by_key()
    near = score(metric["fvd"], videos(0), videos(0))
    far = score(metric["fvd"], videos(1), videos(0))
    assert near.value < far.value
    assert far.low < far.value < far.high
    assert score(metric["fvd16"], videos(1), videos(0)).value > 0
    assert score(metric["fvd16"], [{"logits": np.zeros((3, 400))}], videos(0)) is None  # fewer than 16 frames


def test_every_file_of_a_metric_is_in_the_table():
    files = {path.stem for path in pathlib.Path(metrics.__file__).parent.glob("*.py")} - {"__init__"}
    assert {file.__name__.rpartition(".")[2] for file in metrics.FILES} == files
    for tasks in control.TASKS:
        for conventional in (False, True):
            chosen = metrics.choose(tasks=tasks, conventional=conventional)
            assert len({metric.key for metric in chosen}) == len(chosen) == 17
    with pytest.raises(InputError, match="metrics 'sound' are unknown; use some of visual, video, control, temporal"):
        metrics.choose(["sound"])
