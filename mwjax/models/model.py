"""A loaded model: every network's sizes and parameters, by kind."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mwjax.errors import InputError
from mwjax.models import world_model
from mwjax.models.text import TextEncoder
from mwjax.models.vae import VAE
from mwjax.models.variants import Variant
from mwjax.parallel.sharding import shardings


class Network(NamedTuple):
    """One network's sizes and its parameters, a tree of arrays."""

    config: Any
    params: dict


@dataclasses.dataclass(frozen=True)
class Model:
    """networks: by kind, as the folders of a model are called: "transformer" (backbone and action module), "vae",
    "text_encoder" and, of an image-conditioned model, "image_encoder". tokenizer: "byt5" or a folder. lora: adapters
    of the transformer's backbone, a tree beside its parameters."""

    networks: dict[str, Network]
    tokenizer: str
    lora: dict | None = None

    @property
    def transformer(self) -> Network:
        return self.networks["transformer"]

    @property
    def vae(self) -> Network:
        return self.networks["vae"]

    @property
    def text_encoder(self) -> Network:
        return self.networks["text_encoder"]

    @property
    def image_encoder(self) -> Network | None:
        return self.networks.get("image_encoder")

    @property
    def variables(self) -> dict:
        """The transformer's variables, with the adapters as collection "lora" if there are any."""
        return {"params": self.transformer.params} | ({"lora": {"backbone": self.lora}} if self.lora else {})

    def updated(self, kind: str, **changes) -> "Model":
        """The model with another config or other params of one network."""
        network = self.networks[kind]._replace(**changes)
        return dataclasses.replace(self, networks=self.networks | {kind: network})


def new_model(variant: Variant, *, seed: int) -> Model:
    """A model with fresh parameters and no control. Its text encoder stays as drawn: a fixed random embedding of
    captions."""
    keys = jax.random.split(jax.random.key(seed), 3)
    text, vae, world = TextEncoder(variant.text), VAE(variant.vae), variant.world()
    ids = (jnp.zeros((1, 1), int), jnp.ones((1, 1), int))
    text_params = jax.jit(lambda key: text.init(key, *ids)["params"])(keys[2])
    vae_params = jax.jit(lambda key: vae.init(key, jnp.zeros((1, 5, 16, 16, 3)))["params"])(keys[1])
    world_params = jax.jit(lambda key: world_model.init(world, key))(keys[0])
    networks = {
        "transformer": Network(world, world_params),
        "vae": Network(variant.vae, vae_params),
        "text_encoder": Network(variant.text, text_params),
    }
    return Model(networks, variant.tokenizer)


def add_controls(
    model: Model, controls: tuple[str, ...], *, action_dim: int, seed: int, mesh: jax.sharding.Mesh | None = None
) -> Model:
    """The model with its action modules. Fresh ones start as copies of the base's blocks whose projections are zero.

    mesh: where they are made. Raises InputError if the model has others.
    """
    old = model.transformer
    if old.config.controls == controls:
        return model
    if old.config.controls:
        theirs, asked = (" + ".join(names) or "none" for names in (old.config.controls, controls))
        raise InputError(f"the model has control {theirs}, the config asks for {asked}")
    config = dataclasses.replace(old.config, controls=controls, action_dim=action_dim)

    def modules(key):
        return {name: tree for name, tree in world_model.init(config, key).items() if name != "backbone"}

    layout = mesh and shardings(jax.eval_shape(modules, jax.random.key(seed)), mesh)
    fresh = jax.jit(modules, out_shardings=layout)(jax.random.key(seed))
    params = world_model.copy_base_into_control(fresh | {"backbone": old.params["backbone"]})
    return model.updated("transformer", config=config, params=params)
