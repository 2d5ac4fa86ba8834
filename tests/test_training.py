"""Stages train what they should and nothing else; configs are checked; a killed run loses nothing."""

import collections.abc
import dataclasses
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import adapter_shapes, backbone, drawn, one_device, refused

from mwjax import train as train_command
from mwjax.config import load_config
from mwjax.errors import InputError
from mwjax.models import lora, world_model
from mwjax.models.shapes import vae_shapes, world_shapes
from mwjax.models.vae import VAE, VAEConfig, standardised
from mwjax.models.variants import VARIANTS
from mwjax.models.world_model import WorldConfig
from mwjax.runtime import pages
from mwjax.training.checkpoint import Checkpoints
from mwjax.training.loop import Run, train
from mwjax.training.metrics import Metrics
from mwjax.training.objectives import Objective, flow_objective, stratified_indices, vae_objective
from mwjax.training.optim import adamw
from mwjax.training.stages import STAGES
from mwjax.training.stages.action import Action, ControlConfig
from mwjax.training.stages.base import Base
from mwjax.training.state import TrainState, combine, make_step, new_state, partition

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = WorldConfig(backbone(dim=24, ffn_dim=32), ("controlnet",), 16)
OPTIMIZER = adamw(lambda step: 1e-3, weight_decay=0.1, clip=1.0)


def batch(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return {
        "mean": draw(2, 2, 4, 6, 16),
        "logvar": draw(2, 2, 4, 6, 16) - 5,
        "text": draw(2, 8, 16),
        "keyboard": draw(2, 5, 7),
        "mouse": draw(2, 5, 2),
    }


def variables(adapters: bool = True) -> dict:
    params = world_shapes(CONFIG)
    return drawn({"params": params} | ({"lora": adapter_shapes(params)} if adapters else {}))


def started(trainable: dict) -> TrainState:
    return jax.jit(lambda trainable: new_state(trainable, OPTIMIZER))(trainable)


@pytest.mark.parametrize(
    ("stage", "prefixes"),
    [
        ("lora", ("lora/backbone/",)),
        ("action", ("params/action_encoder/", "params/controlnet/")),
        ("base", ("params/backbone/",)),
    ],
)
def test_a_stage_changes_its_own_parameters_only(stage, prefixes):
    trainable, frozen = partition(variables(stage != "base"), STAGES[stage].TRAINS)
    assert trainable
    assert all(path.startswith(prefixes) for path in trainable)
    assert not any(path.startswith(prefixes) and not path.endswith("alpha") for path in frozen)
    state = started(trainable)
    moments = sum(a.size for a in jax.tree.leaves(state.optimizer) if a.ndim)
    assert moments == 2 * sum(a.size for a in trainable.values())
    before = jax.tree.map(np.asarray, trainable)
    step = make_step(flow_objective(CONFIG, motion=0.2), OPTIMIZER, 0)
    for i in range(2):
        state, metrics = step(state, frozen, batch(i))
    assert np.isfinite(float(metrics["loss"]))
    changed = [path for path in before if np.abs(before[path] - np.asarray(state.trainable[path])).max() > 0]
    assert len(changed) > 0.4 * len(before)
    assert jax.tree.structure(combine(state.trainable, frozen)) == jax.tree.structure(variables(stage != "base"))


def test_frozen_adapters_are_summed_into_their_kernels_once():
    tree = variables()
    loss = jax.jit(
        lambda tree: flow_objective(CONFIG, motion=0.2).loss(
            tree, flow_objective(CONFIG, motion=0.2).draw(batch(), jax.random.key(0))
        )[0]
    )
    trainable, frozen = jax.device_put(partition(tree, Action.TRAINS))
    sums = lora.fold_frozen(frozen)
    assert not any(path.startswith("lora/") for path in sums)
    assert abs(float(loss(combine(trainable, frozen))) - float(loss(combine(trainable, sums)))) < 1e-5
    half = {path: leaf.astype(jnp.bfloat16) for path, leaf in frozen.items()}
    assert lora.fold_frozen(half) is half
    _, frozen = partition(tree, STAGES["lora"].TRAINS)
    assert lora.fold_frozen(frozen).keys() == frozen.keys()


def test_what_is_frozen_comes_back_as_it_was(tmp_path):
    """Adapters and kernels apart, bit for bit, although the steps compute with their sums."""
    tree = variables()
    seen = []
    objective = flow_objective(CONFIG, motion=0.2)
    watched = objective._replace(loss=lambda v, b: (seen.append("lora" in v), objective.loss(v, b))[1])
    stage = Action(steps=1, batch=2, lr=1e-3, control=ControlConfig(kind="controlnet"))
    out = train(stage, tree, watched, Batch(), Run(folder=tmp_path, seed=0, fold_lora=True))
    assert seen
    assert not any(seen)
    before, after = (partition(t, Action.TRAINS)[1] for t in (tree, out))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_a_command_is_started_anew_with_large_pages_once(monkeypatch):
    started = []
    setting = pages.SETTING
    monkeypatch.setattr(pages.os, "execv", lambda *what: started.append(what))
    monkeypatch.setattr(pages.os, "environ", {"GLIBC_TUNABLES": "glibc.malloc.check=0"})
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: path == setting)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path, **_: "always [madvise] never")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "-m", "mwjax.train", "--config", "x"])
    for other in (["python", "-m", "mwjax.sample"], ["python", "-mmwjax.train"]):
        monkeypatch.setattr(sys, "orig_argv", other)
        pages.large_pages("mwjax.train")
    assert not started
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "-m", "mwjax.train", "--config", "x"])
    pages.large_pages("mwjax.train")
    assert started == [(sys.executable, [sys.executable, "-u", "-m", "mwjax.train", "--config", "x"])]
    assert pages.os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    pages.large_pages("mwjax.train")
    assert len(started) == 1


def test_the_vae_stage_trains():
    cfg = VAEConfig(4, (1, 1, 2, 2), 1)
    params = drawn(vae_shapes(cfg))
    trainable, frozen = partition({"params": params}, STAGES["vae"].TRAINS)
    state, step = started(trainable), make_step(vae_objective(cfg, kl_weight=1e-4), OPTIMIZER, 0)
    video = {"video": np.random.default_rng(0).integers(0, 255, (1, 5, 16, 16, 3)).astype(np.uint8)}
    losses = []
    for _ in range(10):
        state, metrics = step(state, frozen, video)
        losses.append(float(metrics["mse"]))
    assert losses[-1] < losses[0]


def test_standardised_latents_are_the_same_autoencoder():
    cfg = VAEConfig(4, (1, 1, 2, 2), 1)
    model, rng = VAE(cfg), np.random.default_rng(0)
    params = drawn(vae_shapes(cfg))
    video = rng.uniform(-1, 1, (4, 9, 32, 32, 3)).astype(np.float32)
    run = jax.jit(
        lambda params, x, method: model.apply({"params": params}, x, method=method, mutable=["cache"])[0],
        static_argnums=2,
    )
    mean, logvar = run(params, video, "encode")
    rows = np.asarray(mean).reshape(-1, cfg.z_dim)
    new = standardised(params, rows.mean(0), rows.std(0))
    new_mean, new_logvar = run(new, video, "encode")
    rows_after = np.asarray(new_mean).reshape(-1, cfg.z_dim)
    np.testing.assert_allclose(rows_after.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(rows_after.std(0), 1, rtol=1e-4)
    np.testing.assert_allclose(
        new_logvar, logvar - 2 * np.log(rows.std(0)).reshape(1, 1, 1, 1, -1), rtol=1e-4, atol=1e-4
    )
    decoded, same = run(params, mean, "decode"), run(new, new_mean, "decode")
    assert np.linalg.norm(same - decoded) < 1e-5 * np.linalg.norm(decoded)


def test_timesteps_are_stratified():
    indices = np.asarray(stratified_indices(jax.random.key(0), 8))
    np.testing.assert_array_equal(indices // 125, np.arange(8))


def test_full_size_state_under_eval_shape():
    """The released recipe's model and training state, without allocating them."""
    config = load_config(str(ROOT / "configs/t2w_controlnet.py"))
    cfg = VARIANTS["1.3B"].world(config.control.kind)
    assert cfg.action_dim == config.control.action_dim

    def start():
        params = world_model.init(cfg, jax.random.key(0))
        tree = {"params": params, "lora": {"backbone": lora.init(params["backbone"], 128, 64.0, jax.random.key(0))}}
        trainable, frozen = partition(tree, Action.TRAINS)
        return new_state(trainable, OPTIMIZER), frozen

    state, frozen = jax.eval_shape(start)
    size = lambda tree: sum(a.size for a in jax.tree.leaves(tree))
    assert 0.7e9 < size(state.trainable) < 0.75e9
    assert size(frozen) > 1.4e9
    assert size(world_shapes(cfg)) < size(state.trainable) + size(frozen)  # the adapters come on top


def test_checkpoint_of_another_model_is_refused(tmp_path):
    state = new_state({"params/a": jnp.zeros((2, 3))}, OPTIMIZER)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, state, {"next": 1})
    checkpoints.close()
    other = Checkpoints(tmp_path, every=1)
    with pytest.raises(InputError, match="another model"):
        other.restore(new_state({"params/a": jnp.zeros((4, 3))}, OPTIMIZER))
    restored, data = other.restore(state)
    assert data == {"next": 1}
    other.close()
    assert restored.trainable["params/a"].shape == (2, 3)


def test_metrics_survive_a_restart(tmp_path):
    first = Metrics(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        first.add(step, {"loss": 1.0 / step})
    first.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,0.")  # cut off by a kill, at a step that will come again
        file.write("x")
    second = Metrics(tmp_path, resume_step=2)
    second.add(3, {"loss": 0.5})
    assert second.close().exists()
    assert [row["step"] for row in second.rows] == [1, 2, 3]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 4


class Batch(collections.abc.Iterator):
    def __next__(self):
        return batch()

    def get_state(self):
        return {}


class Nothing(collections.abc.Iterator):
    def __next__(self):
        return {"x": np.full((1,), np.nan, np.float32)}

    def get_state(self):
        return {}


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    stage = Base(steps=9, batch=1, lr=1.0, log_every=1, max_skipped=3)
    tree = {"params": {"backbone": {"w": jnp.ones(())}}}
    objective = Objective(lambda batch, rng: batch, lambda v, b: (v["params"]["backbone"]["w"] * b["x"].sum(), {}))
    with pytest.raises(InputError, match="loss of stage base is nan at step 3, after 3 steps left out in a row"):
        train(stage, tree, objective, Nothing(), Run(folder=tmp_path, seed=0))


def test_a_stage_starts_from_another_run(tmp_path):
    """Its trainable parameters alone; zero steps take them as they are."""
    state = new_state({"params/backbone/w": jnp.arange(3.0)}, OPTIMIZER)
    checkpoints = Checkpoints(tmp_path / "other/checkpoints", every=1)
    checkpoints.save(7, state, {"next": 7})
    checkpoints.close()
    tree = {"params": {"backbone": {"w": jnp.zeros(3)}, "rest": jnp.ones(2)}}
    objective = Objective(lambda batch, rng: batch, lambda v, b: (v["params"]["backbone"]["w"].sum(), {}))
    stage = Base(steps=0, batch=1, lr=1.0, start_from=str(tmp_path / "other/checkpoints"))
    out = train(stage, tree, objective, Nothing(), Run(folder=tmp_path / "new", seed=0))
    np.testing.assert_array_equal(out["params"]["backbone"]["w"], [0, 1, 2])
    np.testing.assert_array_equal(out["params"]["rest"], [1, 1])
    with pytest.raises(InputError, match="another model"):
        train(
            stage,
            {"params": {"backbone": {"w": jnp.zeros(4)}}},
            objective,
            Nothing(),
            Run(folder=tmp_path / "newer", seed=0),
        )
    with pytest.raises(InputError, match="holds no checkpoint"):
        train(
            dataclasses.replace(stage, start_from=str(tmp_path)),
            tree,
            objective,
            Nothing(),
            Run(folder=tmp_path / "newest", seed=0),
        )


def command(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mwjax.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


WAITING = ["--coordinator", "localhost:45999", "--processes", "2", "--process", "0", "--join-timeout", "3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "configs/nothing.py"], "not a file"),
        (["--config", "tests/small_config.py", "--plan", "8"], "batch 2 does not divide over data × fsdp = 8 devices"),
        (
            ["--config", "tests/small_config.py", "--plan", "5", "--config.mesh.sequence=5"],
            "6 tokens a latent frame (32×48) do not divide over sequence 5",
        ),
        (["--config", "tests/small_config.py", *WAITING], "waited 3 s for the others"),
    ],
)
def test_a_wrong_input_ends_a_process_with_one_line(arguments, says, tmp_path):
    out = command(*arguments, env=one_device() | {"MWJAX_TEST_OUT": str(tmp_path / "run")})
    assert out.returncode == 2, out.stderr
    assert says in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "tests/small_config.py", "--config.sampling.stepz=3"], "did you mean steps?"),
        (["--config", "tests/small_config.py", "--config.seed=abc"], "seed"),
        (["--config", "tests/small_config.py", "--config.framing.height=33"], "height 33 is not a multiple of 16"),
        (["--config", "tests/small_config.py", "--config.model=nowhere"], "nowhere"),
        (["--config", "tests/small_config.py", "--config.dataset=nowhere"], "not a folder"),
        (["--config", "configs/t2w_controlnet.py", "--config.dataset=tests"], "python -m converters import"),
        (["--config", "tests/small_config.py", "--frobnicate"], "frobnicate"),
        (["--config", "tests/small_config.py", "--config.memory.remat=some"], "memory.remat 'some' is unknown"),
        (["--config", "tests/small_config.py", "--config.mesh.tensor=3"], "does not multiply to the 1 devices"),
        (
            ["--config", "tests/small_config.py", "--config.stages.1.grad_accumulation=3"],
            "does not divide into grad_accumulation 3 parts",
        ),
        (["--config", "tests/small_config.py", "--device", "gpu"], "--device gpu was asked for"),
        (["--config", "tests/small_config.py", "--processes", "2"], "missing: coordinator, process"),
        (["--config", "tests/small_config.py", *WAITING, "--coordinator", "localhost"], "not of the form HOST:PORT"),
        (["--config", "tests/small_config.py", "--config.control.action_dims=7"], "did you mean action_dim?"),
    ],
)
def test_wrong_inputs_end_in_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch, capsys):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    monkeypatch.setattr(jax, "local_devices", lambda *_: one)
    monkeypatch.setenv("MWJAX_TEST_OUT", str(tmp_path / "run"))
    monkeypatch.chdir(ROOT)
    refused(train_command.main, arguments, says, capsys)
    assert not (tmp_path / "run").exists()
