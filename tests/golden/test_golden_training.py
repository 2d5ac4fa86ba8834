"""Three optimizer steps of the action stage: losses, gradients and weights as the original's, to 1e-4."""

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict

from cases import case, last, relative_error, stems
from converters.dit import WORLD_ROWS
from converters.tables import save
from models import inputs_of, world
from mwjax.diffusion.flow import TRAIN_STEPS, add_noise, flow_loss, train_sigmas
from mwjax.models.world_model import WorldModel
from mwjax.training.optim import adamw
from mwjax.training.stages.action import Action
from mwjax.training.state import combine, partition

STEP = 1e-4


@pytest.mark.parametrize("stem", stems("train_t2w_controlnet", "train_i2w_adaln"))
def test_action_stage_steps(stem):
    golden = case(stem)
    cfg, params = world(golden)
    model, options = WorldModel(cfg), golden.meta["optimizer"]
    trainable, frozen = partition({"params": params}, Action.TRAINS)
    optimizer = adamw(
        lambda step: options["lr"],
        weight_decay=options["weight_decay"],
        clip=options["max_grad_norm"],
        b1=options["betas"][0],
        b2=options["betas"][1],
        eps=options["eps"],
    )
    moments, latents, sigmas = jax.jit(optimizer.init)(trainable), last(golden["in/latents"]), train_sigmas(5.0)

    @jax.jit
    def gradient(trainable, noise, sigma):
        def loss(trainable):
            variables = combine(trainable, frozen)
            condition = model.apply(variables, inputs_of(golden), method="condition")
            velocity, _ = model.apply(variables, add_noise(latents, noise, sigma), sigma * TRAIN_STEPS, condition)
            return flow_loss(velocity, latents, noise, motion=golden.meta["motion_loss_ratio"])

        return jax.value_and_grad(loss, has_aux=True)(trainable)

    @jax.jit
    def update(grads, moments, trainable):
        updates, moments = optimizer.update(grads, moments, trainable)
        return optax.global_norm(grads), optax.apply_updates(trainable, updates), moments

    def theirs(tree: dict) -> dict[str, np.ndarray]:
        return dict(save(WORLD_ROWS, unflatten_dict(tree, sep="/")["params"]))

    start = theirs(trainable)
    for step in range(len(golden["in/noise"])):
        (loss, parts), grads = gradient(
            trainable, last(golden["in/noise"][step]), sigmas[golden["in/timestep_index"][step]]
        )
        assert relative_error([loss, parts["mse"], parts["motion"]], golden["out/loss_mse_motion"][step]) < STEP
        norm, trainable, moments = update(grads, moments, trainable)
        assert relative_error(norm, golden["out/grad_norm"][step]) < STEP
        if step == 0:
            named = theirs(grads)
            assert named.keys() == golden.meta["grad_norms_step0"].keys()
            for name, norm in golden.meta["grad_norms_step0"].items():
                assert abs(np.linalg.norm(named[name]) / norm - 1) < STEP, name
            for name in (k for k in golden.tensors if k.startswith("out/grad/")):
                assert relative_error(named[name.removeprefix("out/grad/")], golden[name]) < STEP, name
    named = theirs(trainable)
    for name in (k for k in golden.tensors if k.startswith("out/updated/")):
        assert relative_error(named[name.removeprefix("out/updated/")], golden[name]) < STEP, name
    for name, norm in golden.meta["update_norms_after_3_steps"].items():
        assert abs(np.linalg.norm(named[name] - start[name]) / norm - 1) < STEP, name
