"""Eight devices give what one gives, whatever the mesh; state lies where the tables say; checkpoints move between
meshes."""

import collections.abc
import dataclasses
import functools
import os
import pathlib
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import adapter_shapes, backbone, drawn

from mwjax.data.latents import LatentSource
from mwjax.data.loader import latent_batches
from mwjax.errors import InputError, Preempted
from mwjax.models.shapes import world_shapes
from mwjax.models.world_model import WorldConfig
from mwjax.parallel.mesh import MeshShape, make_mesh, one_device
from mwjax.parallel.sharding import parameter_sharding, shardings
from mwjax.runtime.devices import report_devices
from mwjax.training.flops import count
from mwjax.training.loop import Run, to_devices, train, training_flops
from mwjax.training.objectives import flow_objective
from mwjax.training.plan import collectives, plan_stage
from mwjax.training.stages.action import Action
from mwjax.training.stages.lora import LoRA
from mwjax.training.state import StepOptions, make_step, new_state, partition, state_shardings

# Three heads: no mesh of eight divides them.
BACKBONE = backbone(num_heads=3)
IMAGE = dataclasses.replace(BACKBONE, in_dim=36, image_dim=24)
WORLDS = {"controlnet": WorldConfig(BACKBONE, ("controlnet",), 16), "adaln": WorldConfig(IMAGE, ("adaln",), 16)}
MESHES = [MeshShape(2, 2, 1, 2), MeshShape(1, 1, 8, 1)]
PLAIN = WorldConfig(dataclasses.replace(BACKBONE, num_layers=2))
# Keeps the gradients and moves nothing.
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda g, state, params=None: (jax.tree.map(jnp.zeros_like, g), g),
)


def batch(cfg: WorldConfig, size: int = 8) -> dict:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal((size, *shape)).astype(np.float32)
    out = {
        "mean": draw(3, 8, 8, 16),
        "logvar": draw(3, 8, 8, 16) - 5,
        "text": draw(8, 16),
        "keyboard": draw(9, 7),
        "mouse": draw(9, 2),
    }
    return out | ({"image": draw(5, 24), "first_frame": draw(3, 8, 8, 16)} if cfg.backbone.image_dim else {})


@functools.cache
def variables(cfg: WorldConfig) -> dict:
    """With nothing at zero, so that every gradient says something."""
    params = world_shapes(cfg)
    return drawn({"params": params, "lora": adapter_shapes(params)})


def gradients(cfg: WorldConfig, mesh, *, accumulate: int = 1, remat: str = "none") -> tuple[float, dict]:
    objective = flow_objective(cfg.tuned(remat=remat), motion=0.2)
    with jax.set_mesh(mesh):
        trainable, frozen = (
            jax.device_put(part, shardings(part, mesh))
            for part in partition(variables(cfg), ((r".*alpha$", False), (r".*", True)))
        )
        layout = state_shardings(jax.eval_shape(lambda t: new_state(t, KEEP), trainable), mesh)
        state = jax.jit(lambda t: new_state(t, KEEP), out_shardings=layout)(trainable)
        state, metrics = make_step(objective, KEEP, 0, StepOptions(grad_accumulation=accumulate), layout=layout)(
            state, frozen, to_devices(batch(cfg), mesh)
        )
        return float(metrics["loss"]), jax.device_get(state.optimizer)


def agree(got: tuple[float, dict], want: tuple[float, dict]) -> None:
    assert abs(got[0] / want[0] - 1) < 1e-5
    assert got[1].keys() == want[1].keys()
    scale = np.sqrt(np.mean([np.sum(gradient**2) for gradient in want[1].values()]))
    for path, gradient in want[1].items():
        assert np.linalg.norm(got[1][path] - gradient) < 1e-5 * max(np.linalg.norm(gradient), scale), path


@pytest.mark.slow
def test_every_mesh_gives_the_losses_and_gradients_of_one_device():
    want = gradients(WORLDS["controlnet"], one_device())
    for shape in MESHES:
        agree(gradients(WORLDS["controlnet"], make_mesh(shape)), want)


@pytest.mark.slow
def test_so_it_does_in_parts_with_recomputation():
    want = gradients(WORLDS["adaln"], one_device())
    agree(gradients(WORLDS["adaln"], make_mesh(MeshShape(1, 2, 2, 2)), accumulate=4, remat="blocks"), want)


def test_offloaded_blocks_wait_in_host_memory():
    cfg = WORLDS["adaln"].tuned(remat="offload")
    objective, tree = flow_objective(cfg, motion=0.2), variables(WORLDS["adaln"])
    drawn = jax.eval_shape(objective.draw, batch(cfg), jax.random.key(0))
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda tree, part: objective.loss(tree, part)[0]))(tree, drawn))
    assert jaxpr.count("Host") >= 1
    assert "f32<host>[8,3,16,48]" in jaxpr


class Batches(collections.abc.Iterator):
    """The same eight clips again and again, scaled; `act(step)` is called before each."""

    def __init__(self, act=lambda step: None):
        self.step, self.act = 0, act

    def __next__(self):
        self.step += 1
        self.act(self.step)
        out = batch(PLAIN)
        return out | {"mean": out["mean"] * (1 + 0.1 * self.step)}

    def get_state(self):
        return {"next": self.step}

    def set_state(self, state):
        self.step = state["next"]


STAGE = LoRA(steps=6, batch=8, lr=1e-2, warmup=1, clip=1.0, save_every=100, log_every=1)
OBJECTIVE = flow_objective(WORLDS["controlnet"], motion=0.2)


def run(folder: pathlib.Path, shape: MeshShape, devices: int, batches: Batches, counted=None) -> dict:
    mesh = make_mesh(shape, jax.devices()[:devices])
    where = Run(folder=folder, seed=0, mesh=mesh)
    return train(STAGE, variables(PLAIN), flow_objective(PLAIN, motion=0.2), batches, where, counted=counted)


def losses(folder: pathlib.Path) -> list[float]:
    return [float(line.split(",")[1]) for line in (folder / "lora/metrics.csv").read_text().splitlines()[1:]]


def stop_at(last: int):
    return lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == last else None


@pytest.mark.slow
def test_told_to_stop_on_eight_devices_and_carried_on_with_four(tmp_path):
    """SIGTERM saves; another mesh carries on; losses are those of the uninterrupted run on one device."""
    whole = run(tmp_path / "whole", MeshShape(), 1, Batches(), counted=flow_objective(PLAIN, motion=0.2))
    with pytest.raises(Preempted, match="step 2 of stage lora"):
        run(tmp_path / "cut", MeshShape(1, 2, 2, 2), 8, Batches(stop_at(2)))
    cut = run(tmp_path / "cut", MeshShape(fsdp=4), 4, Batches())
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-5)
    for path, array in jax.tree_util.tree_leaves_with_path(jax.device_get(whole)):
        other = jax.device_get(cut)
        for key in path:
            other = other[key.key]
        assert np.linalg.norm(other - array) <= 1e-4 * np.linalg.norm(array) + 1e-6, path
    rows = (tmp_path / "whole/lora/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"data_seconds", "tokens_per_second", "tflops_per_device"} <= set(rows)


def test_state_lies_where_the_table_says_and_no_whole_stack_is_gathered():
    mesh, cfg = make_mesh(MeshShape(fsdp=4, tensor=2)), WORLDS["controlnet"]
    optimizer = optax.adam(1e-3)
    with jax.set_mesh(mesh):
        trainable, frozen = (
            jax.device_put(part, shardings(part, mesh)) for part in partition(variables(cfg), Action.TRAINS)
        )
        layout = state_shardings(jax.eval_shape(lambda t: new_state(t, optimizer), trainable), mesh)
        state = jax.jit(lambda t: new_state(t, optimizer), out_shardings=layout)(trainable)
        step = make_step(OBJECTIVE, optimizer, 0, layout=layout)
        data = to_devices(batch(cfg), mesh)
        compiled = step.lower(state, frozen, data).compile()
        after, _ = compiled(state, frozen, data)
    path = "params/controlnet/blocks/ffn/dense_0/kernel"
    for tree in (trainable, after.trainable, after.optimizer[0].mu):
        assert tree[path].sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
        assert tree[path].addressable_shards[0].data.shape == (2, 48 // 4, 64 // 2)
    assert frozen["params/backbone/blocks/self_attn/o/kernel"].sharding.spec == jax.sharding.PartitionSpec(
        None, "tensor", "fsdp"
    )
    stacks = {a.shape for p, a in {**trainable, **frozen}.items() if "blocks/" in p and p.endswith("kernel")}
    gathered = {
        tuple(map(int, shape.split(",")))
        for shape in re.findall(r"f32\[([\d,]+)\][^=]*? all-gather\(", compiled.as_text())
    }
    assert gathered
    assert not gathered & stacks


def test_parameter_table():
    mesh = make_mesh(MeshShape(fsdp=4, tensor=2))
    spec = lambda path, *shape: tuple(parameter_sharding(path, shape, mesh).spec)
    assert spec("params/backbone/blocks/self_attn/q/kernel", 4, 48, 48) == (None, "fsdp", "tensor")
    assert spec("params/backbone/blocks/self_attn/q/kernel", 4, 3, 48) == (
        None,
        None,
        "tensor",
    )  # three rows do not divide
    assert spec("lora/backbone/blocks/ffn/dense_1/up", 4, 8, 48) == (None, None, "fsdp")
    assert spec("params/backbone/blocks/norm3/scale", 4, 48) == (None, None)


def test_steps_that_are_not_finite_or_leap_change_nothing():
    cfg = WORLDS["controlnet"]
    trainable, frozen = partition(variables(cfg), Action.TRAINS)
    optimizer = optax.sgd(1e-2)
    step = make_step(OBJECTIVE, optimizer, 0, StepOptions(ema=0.5, skip_above=3.0, warmup=1))
    state = new_state(trainable, optimizer, ema=True)
    good, nan = batch(cfg), batch(cfg)
    nan["mean"] = nan["mean"] * np.nan
    leap = good | {"mean": good["mean"] * 100}
    state, _ = step(state, frozen, good)
    before = jax.device_get(state)
    for number, bad in enumerate((nan, leap), 1):
        state, metrics = step(state, frozen, bad)
        assert metrics["skipped"] == number
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.trainable), before.trainable)
    state, metrics = step(state, frozen, good)
    assert metrics["skipped"] == 0
    path = "params/controlnet/before_proj/kernel"
    np.testing.assert_allclose(state.ema[path], (before.ema[path] + state.trainable[path]) / 2, rtol=1e-5, atol=1e-7)


class Source(LatentSource):
    def __init__(self):
        pass

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {
            "mean": np.full((2, 1, 1, 16), i, np.float32),
            "keyboard": np.zeros((5, 7)),
            "mouse": np.zeros((5, 2)),
            "text": np.zeros((1, 4), np.float32),
        }

    def text(self, caption):
        return np.zeros((1, 4), np.float32)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_batch(processes):
    """Whatever their number, and also after a restart with another number."""
    clips = lambda part, start=0, steps=4: [
        next(it)["mean"][:, 0, 0, 0, 0] for it in [start_at(part, start)] for _ in range(steps)
    ]

    def start_at(part, start):
        it = latent_batches(Source(), batch=4, seed=3, text_len=2, part=part)
        if start:
            it.set_state({"next_index": start})
        return it

    whole = clips((0, 1))
    parts = [clips((i, processes)) for i in range(processes)]
    np.testing.assert_array_equal(np.stack(whole), np.concatenate([np.stack(p) for p in parts], 1))
    assert len({c for step in whole[:2] for c in step}) == 8
    np.testing.assert_array_equal(clips((0, processes), start=2, steps=2), parts[0][2:])


def test_mesh_sizes():
    assert MeshShape(fsdp=-1, tensor=2).sizes(8) == (1, 4, 1, 2)
    wrong = {
        MeshShape(fsdp=3): "does not multiply to the 8 devices",
        MeshShape(-1, -1): "one of them may be -1",
        MeshShape(tensor=0): "at least 1",
    }
    for shape, says in wrong.items():
        with pytest.raises(InputError, match=says):
            shape.sizes(8)


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match="--device gpu was asked for"):
        report_devices("gpu")


def test_arithmetic_is_counted():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    w = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    loop = lambda x, w: jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=5)[0]
    assert count(loop, x, w) == 5 * 2 * 4 * 8 * 8
    assert count(jax.grad(lambda w, x: loop(x, w).sum()), w, x) == 3 * 5 * 2 * 4 * 8 * 8


def test_arithmetic_does_not_depend_on_the_mesh():
    cfg, stage = WORLDS["adaln"], Action.TRAINS
    trainable, frozen = partition(variables(cfg), stage)
    counts = []
    for mesh in (one_device(), make_mesh(MeshShape(1, 2, 4, 1))):
        with jax.set_mesh(mesh):
            counts.append(training_flops(flow_objective(cfg, motion=0.2), trainable, frozen, batch(cfg)))
    assert 1 <= counts[1] / counts[0] < 1.2  # a fourth head, of zeros, makes four


def test_collectives_are_counted_as_often_as_they_run():
    mesh = make_mesh(MeshShape())

    def shifted(x):
        return jax.lax.scan(
            lambda c, _: (jax.lax.ppermute(c, "fsdp", [(i, (i + 1) % 8) for i in range(8)]) * 1.5, None),
            x,
            None,
            length=7,
        )[0]

    spec = jax.sharding.PartitionSpec("fsdp")
    text = (
        jax.jit(jax.shard_map(shifted, mesh=mesh, in_specs=spec, out_specs=spec))
        .lower(jnp.zeros((64, 4)))
        .compile()
        .as_text()
    )
    assert collectives(text) == {"collective-permute": 7 * 8 * 4 * 4}


def test_a_plan_says_what_a_step_takes():
    cfg, mesh = PLAIN, make_mesh(MeshShape(fsdp=8))
    shapes = jax.eval_shape(lambda: variables(cfg))
    plan = plan_stage(
        STAGE, shapes, flow_objective(cfg, motion=0.2), None, jax.eval_shape(lambda: batch(cfg)), mesh, "bfloat16"
    )
    trainable, _ = partition(variables(cfg), LoRA.TRAINS)
    assert 1 <= plan.trained / (sum(a.nbytes for a in trainable.values()) / 8) < 3  # what does not divide is whole
    assert plan.moments >= 2 * plan.trained - 16
    assert plan.temporary > 0
    assert plan.collectives["all-gather"] > 0
    assert plan.flops > 1e7
