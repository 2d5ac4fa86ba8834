"""The image-to-world path from a dataset to a video, at toy size: either action module trains and samples from a
first frame."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from small import BACKBONE, small_model
from test_data import make_dataset

from converters.folder import load_model, save_model
from mwjax import sample, train
from mwjax.data.schedules import SHOWCASE
from mwjax.data.video import read_image, read_video
from mwjax.errors import InputError
from mwjax.models.world_model import WorldConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = WorldConfig(dataclasses.replace(BACKBONE, in_dim=36, image_dim=80))
    return save_model(small_model(world), tmp_path_factory.mktemp("base") / "model")


def config_file(path, *, base, dataset, control: str):
    """adaLN in two stages, a ControlNet in the second alone."""
    lora = {"name": "lora", "steps": 2, "batch": 2, "lr": 1e-3, "rank": 2, "alpha": 1.0}
    action = {"name": "action", "steps": 3, "batch": 2, "lr": 1e-2, "motion": 0.2}
    path.write_text(f"""
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(
        out={str(path.parent / "run")!r}, seed=0, model={str(base)!r}, dataset={str(dataset)!r}, record=None,
        control=dict(kind={control!r}, action_dim=16),
        framing=dict(frames=5, height=32, width=32, shrink=1),
        stages={[lora, action] if control == "adaln" else [action]},
        sampling=dict(steps=2), lora_scale=1.0,
    ))
""")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("control", ["adaln", "controlnet"])
def test_dataset_to_video(tmp_path, base, control, capsys, monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    monkeypatch.setattr(jax, "local_devices", lambda *_: one)
    dataset = make_dataset(tmp_path / "data", scenes=2)
    train.main(["--config", str(config_file(tmp_path / "config.py", base=base, dataset=dataset, control=control))])
    model = load_model(tmp_path / "run/model")
    assert model.transformer.config.controls == (control,)
    module = model.transformer.params[control]
    started_at_zero = module["kernel"] if control == "adaln" else module["after_proj"]["kernel"]
    assert np.abs(started_at_zero).max() > 0
    if control == "controlnet":
        assert len(list((tmp_path / "run/samples").glob("*.mp4"))) == len(SHOWCASE)
        return
    Image.fromarray(np.full((50, 90, 3), 200, np.uint8)).save(tmp_path / "first.png")
    options = [
        "--model",
        str(tmp_path / "run/model"),
        "--actions",
        '[[4, "1 0 0 0 0 0 0 0 0"], ""]',
        "--height",
        "32",
        "--width",
        "32",
        "--steps",
        "2",
    ]
    sample.main([*options, "--image", str(tmp_path / "first.png"), "--out", str(tmp_path / "a.mp4"), "--enlarge", "1"])
    assert read_video(tmp_path / "a.mp4").shape == (5, 32, 32, 3)
    for extra, says in (
        ([], "--image"),
        (["--image", str(tmp_path / "config.py")], "is no picture of a known format"),
        (["--image", "gone.png"], "is missing"),
    ):
        with pytest.raises(SystemExit) as stop:
            sample.main([*options, *extra, "--out", str(tmp_path / "b.mp4")])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "b.mp4").exists()


def test_pictures_of_any_shape_cover_the_frame(tmp_path):
    picture = np.zeros((40, 200, 3), np.uint8)
    picture[:, 80:120] = 255  # the middle
    Image.fromarray(picture).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", 32, 32)[:, 4:-4].min() > 200
    with pytest.raises(InputError, match="missing"):
        read_image(tmp_path / "none.png", 32, 32)
