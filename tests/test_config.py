"""Every config that ships is well-formed as a whole; wrong values are named; the released recipe is the original's."""

import pathlib
from typing import NamedTuple

import pytest

from mwjax.config import build, find_config, load_config
from mwjax.diffusion.sampling import Sampling
from mwjax.errors import InputError
from mwjax.training.job import Job, check, stage_of, variant_networks
from mwjax.training.stages.action import ControlConfig
from mwjax.training.stages.base import Base

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
MODELS = {"models/Wan2.1-T2V-1.3B": "new:1.3B", "models/Wan2.1-I2V-14B-480P": "new:14B"}


class Recipe(NamedTuple):
    """A shipped config and what it trains, stage by stage."""

    spec: str
    stages: list[str]


RECIPES = [
    Recipe("tiny_t2w_controlnet", ["lora", "action"]),
    Recipe("tiny_t2w_controlnet:long", ["lora", "action"]),
    Recipe("tiny_base:vae", ["vae", "vae"]),
    Recipe("tiny_base:backbone", ["base"]),
    Recipe("tiny_base:walk", ["base"]),
    Recipe("t2w_controlnet", ["lora", "action"]),
    Recipe("i2w_adaln", ["lora", "action"]),
    Recipe("idm_vizdoom", ["idm"]),
]


def checked(spec: str, *overrides: str) -> Job:
    return check(
        load_config(spec, overrides), lambda name: variant_networks(MODELS.get(name, "new:tiny")), planning=True
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.spec)
def test_shipped_configs_are_found_by_name_and_pass_every_check(recipe):
    job = checked(recipe.spec)
    assert [stage.NAME for stage in job.stages] == recipe.stages
    assert load_config(recipe.spec).record or "tiny" not in job.model


def test_every_config_is_checked_above():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {recipe.spec.partition(":")[0] for recipe in RECIPES}


def test_the_released_recipe():
    lora, action = checked("t2w_controlnet").stages
    assert (lora.lr, lora.weight_decay, lora.eps, lora.clip, lora.motion) == (1e-4, 3e-2, 1e-10, 0.05, 0.0)
    assert (lora.rank, lora.alpha) == (128, 64.0)
    assert (action.lr, action.weight_decay, action.clip, action.motion) == (1e-5, 0.1, 0.05, 0.2)
    assert (action.warmup, action.caption_dropout) == (100, 0.1)
    assert action.control == ControlConfig(kind="controlnet", action_dim=1536)


def test_configs_are_files_or_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/tiny_base.py") == find_config("tiny_base") == CONFIGS / "tiny_base.py"
    (tmp_path / "mine.py").write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    assert find_config("mine.py") == pathlib.Path("mine.py")
    with pytest.raises(InputError, match=r"config 'elsewhere/tiny_base\.py' is not a file, nor one that ships"):
        find_config("elsewhere/tiny_base.py")


def test_overrides():
    overrides = ["--config.seed=7", "--config.stages.0.steps=3", "--config.framing.height=64"]
    config = load_config("tiny_t2w_controlnet", overrides)
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
        load_config("tiny_t2w_controlnet", overrides)


def test_unknown_and_missing_keys():
    with pytest.raises(InputError, match=r"stage\.stepz is unknown; did you mean steps"):
        stage_of({"name": "lora", "stepz": 1}, "stage", {})
    with pytest.raises(InputError, match=r"stage\.lr is missing"):
        stage_of({"name": "lora", "steps": 1, "batch": 1}, "stage", {})
    with pytest.raises(InputError, match="stage name 'loral' is unknown"):
        stage_of({"name": "loral", "steps": 1, "batch": 1, "lr": 1.0}, "stage", {})
    with pytest.raises(InputError, match=r"stage\.rank is unknown"):
        stage_of({"name": "base", "steps": 1, "batch": 1, "lr": 1.0, "rank": 4}, "stage", {})
    with pytest.raises(InputError, match="variant 'short' is unknown"):
        load_config("tiny_t2w_controlnet:short")
    with pytest.raises(InputError, match=r"sampling\.guidance_skip is 2; it must be a number from 0 to 1"):
        build(Sampling, {"guidance_skip": 2}, "sampling")


def test_keys_under_their_old_names_are_read_with_a_line_each(capsys):
    old = {"name": "base", "steps": 2, "batch": 4, "lr": 1.0, "accumulate": 2, "average": 0.9, "spike": 3.0}
    assert stage_of(old, "stages.0", {}) == Base(steps=2, batch=4, lr=1.0, grad_accumulation=2, ema=0.9, skip_above=3.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "config key stages.0.average is now called ema" in lines
