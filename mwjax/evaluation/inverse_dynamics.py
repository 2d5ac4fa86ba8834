"""What an inverse dynamics model says about a video: which buttons were pressed, how the camera turned."""

import functools

import jax

from mwjax.evaluation.networks.idm import IDMConfig, InverseDynamics
from mwjax.evaluation.resize import opencv_linear
from mwjax.types import Array, Float, Int, UInt8


@functools.partial(jax.jit, static_argnums=0)
def read_off(
    cfg: IDMConfig, params: dict, frames: UInt8[Array, "f h w 3"]
) -> tuple[Int[Array, "f buttons"], Int[Array, "f 2"]]:
    """(buttons pressed, 0 or 1, as in BUTTONS; bins of the camera's pitch and yaw) at every frame."""
    buttons, camera = InverseDynamics(cfg).apply({"params": params}, opencv_linear(frames, *cfg.image_size)[None])
    return buttons[0].argmax(-1), camera[0].argmax(-1)


@functools.partial(jax.jit, static_argnums=0)
def probabilities(cfg: IDMConfig, params: dict, frames: UInt8[Array, "f h w 3"]) -> Float[Array, "f buttons"]:
    """How likely it finds at every frame that each of BUTTONS is pressed."""
    buttons, _ = InverseDynamics(cfg).apply({"params": params}, opencv_linear(frames, *cfg.image_size)[None])
    return jax.nn.softmax(buttons[0], -1)[..., 1]
