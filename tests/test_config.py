"""Every config is well-formed; the released one asks for its weights in one line."""

import pathlib

import pytest

from mwjax.config import build, load_config
from mwjax.data.latents import Framing
from mwjax.errors import InputError
from mwjax.training.loop import Stage

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
SPECS = ["tiny_t2w_controlnet.py", "tiny_t2w_controlnet.py:long", "tiny_base.py:vae", "tiny_base.py:backbone", "t2w_controlnet.py", "i2w_adaln.py"]


@pytest.mark.parametrize("spec", SPECS)
def test_configs_build(spec):
    config = load_config(str(CONFIGS / spec))
    assert [build(Stage, stage, "stage") for stage in config.stages]
    build(Framing, config.framing, "framing")


def test_the_released_recipe():
    stages = load_config(str(CONFIGS / "t2w_controlnet.py")).stages
    lora, action = (build(Stage, stage, "stage") for stage in stages)
    assert (lora.lr, lora.weight_decay, lora.eps, lora.rank, lora.alpha, lora.clip, lora.motion) == (1e-4, 3e-2, 1e-10, 128, 64.0, 0.05, 0.0)
    assert (action.lr, action.weight_decay, action.clip, action.motion, action.warmup, action.caption_dropout) == (1e-5, 0.1, 0.05, 0.2, 100, 0.1)


def test_overrides():
    config = load_config(str(CONFIGS / "tiny_t2w_controlnet.py"), ["--config.seed=7", "--config.stages.0.steps=3", "--config.framing.height=64"])
    assert (config.seed, config.stages[0]["steps"], config.framing.height) == (7, 3, 64)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["--config.sead=7"], "did you mean seed"),
        (["--config.stages.9.steps=3"], "not an index below 2"),
        (["--config.stages.0.steps=many"], "steps is int"),
        (["--seed=7"], "--config.NAME=VALUE"),
    ],
)
def test_wrong_overrides(overrides, says):
    with pytest.raises(InputError, match=says):
        load_config(str(CONFIGS / "tiny_t2w_controlnet.py"), overrides)


def test_unknown_and_missing_keys():
    with pytest.raises(InputError, match=r"stage\.stepz is unknown; did you mean steps"):
        build(Stage, {"name": "lora", "stepz": 1}, "stage")
    with pytest.raises(InputError, match=r"stage\.lr is missing"):
        build(Stage, {"name": "lora", "steps": 1, "batch": 1}, "stage")
    with pytest.raises(InputError, match="stage name 'loral' is unknown"):
        Stage("loral", 1, 1, 1.0)
    with pytest.raises(InputError, match="variant 'short' is unknown"):
        load_config(str(CONFIGS / "tiny_t2w_controlnet.py:short"))
