"""A whole world model: backbone, action encoder and the path by which actions enter."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mwjax.models.action import ActionEncoder
from mwjax.models.adaln import AdaLN
from mwjax.models.controlnet import EVERY, ControlNet
from mwjax.models.dit import Backbone, ContextKV, DiTConfig
from mwjax.models.layers import Module
from mwjax.types import Array, Float

CONTROLS = ("none", "controlnet", "adaln")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A backbone and how it is controlled: one of CONTROLS."""

    backbone: DiTConfig
    control: str = "none"
    action_dim: int = 1536


class Condition(NamedTuple):
    """Everything about text, image and actions that does not change from one denoising step to the next."""

    context_kv: ContextKV
    control: Any = None  # of "controlnet": (first residual tokens, text keys and values) of the branch; of "adaln": modulation [blocks, b, t, 6, d]
    channels: Array | None = None  # [b, t, h, w, c] beside the noisy latents: mask and latents of the first frame


def first(condition: Condition, count: int) -> Condition:
    """The condition of the first `count` clips of a batch."""
    stacked = lambda tree: jax.tree.map(lambda a: a[:, :count], tree)  # blocks come first
    control, channels = condition.control, condition.channels
    control = (control[0][:count], stacked(control[1])) if isinstance(control, tuple) else stacked(control)
    return Condition(stacked(condition.context_kv), control, None if channels is None else channels[:count])


class WorldModel(Module):
    """`condition` once per prompt and action sequence, then the module itself at every step."""

    config: WorldConfig

    def setup(self):
        cfg = self.config
        self.backbone = Backbone(cfg.backbone)
        if cfg.control not in CONTROLS:
            raise ValueError(f"control {cfg.control!r} is unknown; use {', '.join(CONTROLS)}")
        if cfg.control != "none":
            self.action_encoder = ActionEncoder(cfg.action_dim)
        if cfg.control == "controlnet":
            self.controlnet = ControlNet(cfg.backbone, cfg.action_dim)
        if cfg.control == "adaln":
            self.adaln = AdaLN(cfg.backbone)

    def action_features(self, keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"]) -> Float[Array, "b t a"]:
        return self.action_encoder(keyboard, mouse)

    def condition(
        self, text: Float[Array, "b s c"], keyboard: Float[Array, "b f 7"] | None = None, mouse: Float[Array, "b f 2"] | None = None,
        image: Float[Array, "b i e"] | None = None, channels: Float[Array, "b t h w m"] | None = None,
    ) -> Condition:  # fmt: skip
        """text: text encoder outputs, zeros after each prompt's end. keyboard, mouse: one row a frame, row 0 empty.

        image, channels: image encoder outputs and the channels beside the latents, of an image-conditioned model.
        """
        embedded = self.backbone.embed_text(text)
        image = self.backbone.embed_image(image) if self.config.backbone.image_dim else None
        control = None
        if self.config.control == "controlnet":
            control = self.controlnet.prepare(self.action_features(keyboard, mouse), embedded, image)
        if self.config.control == "adaln":
            control = self.adaln(self.action_features(keyboard, mouse))
        return Condition(self.backbone.context_kv(embedded, image), control, channels)

    def __call__(
        self, latents: Float[Array, "b t h w c"], timesteps: Float[Array, " b"], condition: Condition, control_scale: float | Array = 1.0,
        reuse: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b t h w o"], dict]:  # fmt: skip
        """Velocity and intermediates. control_scale: strength of the action module, one number or [b, 1, 1, 1]. reuse: see Backbone."""
        if condition.channels is not None:
            latents = jnp.concatenate([latents, condition.channels.astype(latents.dtype)], -1)
        branch = modulation = None
        if self.config.control == "controlnet":
            branch = self.controlnet.branch(condition.control, control_scale)
        if self.config.control == "adaln":
            modulation = condition.control * jnp.reshape(jnp.asarray(control_scale), (1, -1, 1, 1, 1))
        return self.backbone(latents, timesteps, condition.context_kv, branch, modulation, reuse)

    def time_projection(self, timesteps: Float[Array, " b"]) -> Float[Array, "b 6 d"]:
        return self.backbone.embed_time(timesteps)[1]

    def init_all(self, latents, timesteps, text, keyboard, mouse, image):
        """Touch every parameter once, for initialisation."""
        return self(latents, timesteps, self.condition(text, keyboard, mouse, image))


def example_inputs(cfg: WorldConfig) -> tuple:
    """The smallest inputs that touch every parameter."""
    side = cfg.backbone.patch
    return (jnp.zeros((1, 1, side, side, cfg.backbone.in_dim)), jnp.zeros((1,)), jnp.zeros((1, 1, cfg.backbone.text_dim)),
            jnp.zeros((1, 1, 7)), jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, cfg.backbone.image_dim)))  # fmt: skip


def init(cfg: WorldConfig, rng: jax.Array) -> dict:
    """Fresh parameters. Run it under `jax.eval_shape` for shapes alone."""
    return WorldModel(cfg).init(rng, *example_inputs(cfg), method="init_all")["params"]


def copy_base_into_control(params: dict) -> dict:
    """Control blocks as copies of base blocks 0, 2, 4, …, as training starts from; adaLN has none."""
    if "controlnet" not in params:
        return params
    copies = jax.tree.map(lambda a: a[::EVERY], params["backbone"]["blocks"])
    return {**params, "controlnet": {**params["controlnet"], "blocks": copies}}
