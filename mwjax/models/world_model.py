"""A whole world model: backbone, action encoder and the controls by which actions enter."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mwjax.models.action import STRIDE, ActionEncoder
from mwjax.models.attention import Chunks
from mwjax.models.block import DiTConfig
from mwjax.models.cache import KV, Kept, Past
from mwjax.models.controls import CONTROLS
from mwjax.models.dit import Backbone, Injection
from mwjax.models.layers import Module
from mwjax.types import Array, Float

Inputs = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A backbone and how it is controlled: names of CONTROLS, whose injections add up."""

    backbone: DiTConfig
    controls: tuple[str, ...] = ()
    action_dim: int = 1536

    def __post_init__(self):
        for name in self.controls:
            if name not in CONTROLS:
                raise ValueError(f"control {name!r} is unknown; use {', '.join(CONTROLS)}")

    def tuned(self, **how) -> "WorldConfig":
        """The same numbers computed another way: `attention`, `remat`, `unroll` of the backbone."""
        return dataclasses.replace(self, backbone=dataclasses.replace(self.backbone, **how))


class Condition(NamedTuple):
    """Everything about text, image and actions that does not change from one denoising step to the next.

    context: what text and image give to the backbone ("backbone") and to each control, once per prompt; stacked over
    blocks. signals: what the frames' actions give to each control. first_frame: [b, t, h, w, c] beside the noisy
    latents.
    """

    context: dict[str, Any]
    signals: dict[str, Any]
    first_frame: Array | None = None


def take_batch(condition: Condition, count: int) -> Condition:
    """The condition of the first `count` clips of a batch."""

    def taken(tree, axis):
        return jax.tree.map(lambda a: jax.lax.slice_in_dim(a, 0, count, axis=axis), tree)

    signals = {name: taken(signal, CONTROLS[name].SIGNAL_BATCH) for name, signal in condition.signals.items()}
    return Condition(taken(condition.context, 1), signals, taken(condition.first_frame, 0))


def input_shapes(cfg: WorldConfig, latents: tuple[int, int, int], image_tokens: int) -> dict[str, tuple[int, ...]]:
    """What the model reads of one clip of `latents` (t, h, w): shapes by the name of the input."""
    t, h, w = latents
    backbone, frames = cfg.backbone, STRIDE * (t - 1) + 1
    shapes = {"text": (backbone.text_len, backbone.text_dim), "keyboard": (frames, 7), "mouse": (frames, 2)}
    if backbone.image_dim:
        shapes["image"] = (image_tokens, backbone.image_dim)
        shapes["first_frame"] = (t, h, w, backbone.in_dim - backbone.out_dim)
    return shapes


class WorldModel(Module):
    """`condition` once per prompt and action sequence, then the module itself at every step."""

    config: WorldConfig

    def setup(self):
        cfg = self.config
        self.backbone = Backbone(cfg.backbone)
        if any(CONTROLS[name].NEEDS_ACTIONS for name in cfg.controls):
            self.action_encoder = ActionEncoder(cfg.action_dim)
        for name in cfg.controls:
            setattr(self, name, CONTROLS[name](cfg.backbone, cfg.action_dim))

    def action_features(self, keyboard: Float[Array, "b f 7"], mouse: Float[Array, "b f 2"]) -> Float[Array, "b t a"]:
        return self.action_encoder(keyboard, mouse)

    def context(self, inputs: Inputs) -> dict[str, Any]:
        """From "text" [b, s, c] (text encoder outputs, zeros after each prompt's end) and, of an image-conditioned
        model, "image" [b, i, e] (image encoder outputs)."""
        text = self.backbone.embed_text(inputs["text"])
        image = self.backbone.embed_image(inputs["image"]) if self.config.backbone.image_dim else None
        context = {"backbone": self.backbone.context_kv(text, image)}
        return context | {name: getattr(self, name).context(text, image) for name in self.config.controls}

    def signals(self, inputs: Inputs) -> dict[str, Any]:
        """From "keyboard" [b, f, 7] and "mouse" [b, f, 2], one row a frame, row 0 empty."""
        features = None
        if any(CONTROLS[name].NEEDS_ACTIONS for name in self.config.controls):
            features = self.action_features(inputs["keyboard"], inputs["mouse"])
        return {name: getattr(self, name).signal(features, inputs) for name in self.config.controls}

    def condition(self, inputs: Inputs) -> Condition:
        """Both, and "first_frame" [b, t, h, w, c] (mask and latents) of an image-conditioned model."""
        return Condition(self.context(inputs), self.signals(inputs), inputs.get("first_frame"))

    def __call__(
        self,
        latents: Float[Array, "b t h w c"],
        timesteps: Float[Array, " b"] | Float[Array, "b t"],
        condition: Condition,
        control_scale: float | Array = 1.0,
        *,
        past: Past | None = None,
        chunks: Chunks | None = None,
        reuse: tuple[Array, Array] | None = None,
    ) -> tuple[Float[Array, "b t h w o"], dict]:
        """Velocity and intermediates. control_scale: strength of the controls, one number or [b, 1, 1, 1]. past,
        chunks, reuse: see Backbone."""
        if condition.first_frame is not None:
            latents = jnp.concatenate([latents, condition.first_frame.astype(latents.dtype)], -1)
        side = None if past is None else past.kept.side
        injection = Injection()
        for name in self.config.controls:
            context, signal = condition.context[name], condition.signals[name]
            injection += getattr(self, name).inject(context, signal, control_scale, side)
        context = condition.context["backbone"]
        return self.backbone(latents, timesteps, context, injection, past=past, chunks=chunks, reuse=reuse)

    def time_projection(self, timesteps: Float[Array, " b"]) -> Float[Array, "b 6 d"]:
        return self.backbone.embed_time(timesteps[:, None])[1][:, 0]

    def init_all(self, latents, timesteps, inputs):
        """Touch every parameter once, for initialisation."""
        return self(latents, timesteps, self.condition(inputs))


def init(cfg: WorldConfig, rng: jax.Array) -> dict:
    """Fresh parameters. Run it under `jax.eval_shape` for shapes alone."""
    side = cfg.backbone.patch
    inputs = {name: jnp.zeros((1, *shape)) for name, shape in input_shapes(cfg, (1, side, side), 1).items()}
    inputs["text"] = inputs["text"][:, :1]
    latents = jnp.zeros((1, 1, side, side, cfg.backbone.out_dim))
    return WorldModel(cfg).init(rng, latents, jnp.zeros((1,)), inputs, method="init_all")["params"]


def copy_base_into_control(params: dict) -> dict:
    """Control blocks as copies of base blocks 0, 2, 4, …, as training starts from; a control without blocks has
    none."""
    for name, control in CONTROLS.items():
        if name in params and control.EVERY:
            copies = jax.tree.map(lambda a, every=control.EVERY: a[::every], params["backbone"]["blocks"])
            params = {**params, name: {**params[name], "blocks": copies}}
    return params


def empty_past(
    cfg: WorldConfig, *, batch: int, room: int, size: tuple[int, int], dtype: jax.typing.DTypeLike = jnp.float32
) -> Past:
    """Nothing seen yet, and room for `room` latent frames of `size` (h, w)."""
    backbone = cfg.backbone
    tokens = (size[0] // backbone.patch) * (size[1] // backbone.patch)
    shape = (batch, room, tokens, backbone.num_heads, backbone.dim // backbone.num_heads)

    def kv(blocks):
        return KV(*(jnp.zeros((blocks, *shape), dtype) for _ in range(2)))

    every = max((CONTROLS[name].EVERY for name in cfg.controls), default=0)
    side = kv(-(-backbone.num_layers // every)) if every else None
    return Past(jnp.zeros(batch, jnp.int32), Kept(kv(backbone.num_layers), side))
