"""CLIP image encoder: key names of the visual part of Wan2.1's `models_clip_….pth` and of transformers'
`CLIPVisionModel`."""

import dataclasses
import math
from collections.abc import Mapping

from converters.files import Tensors
from converters.tables import Row, layer_count
from mwjax.models.image import ImageConfig

ROWS: tuple[Row, ...] = (
    ("cls_embedding", "cls_embedding", "table"),
    ("pos_embedding", "pos_embedding", "table"),
    ("head", "head", "table"),
    ("patch_embedding", "patch_embedding", "image_patch"),
    ("{part}_norm", "{part}_norm", "norm"),
    ("transformer.{layer}.norm{i}", "blocks/norm{i}", "norm"),
    ("transformer.{layer}.attn.{name}", "blocks/{name}", "linear"),
    ("transformer.{layer}.mlp.0", "blocks/mlp/dense_0", "linear"),
    ("transformer.{layer}.mlp.2", "blocks/mlp/dense_1", "linear"),
)

DIFFUSERS_ROWS: tuple[Row, ...] = (
    ("vision_model.embeddings.class_embedding", "cls_embedding", "vector"),
    ("vision_model.embeddings.position_embedding.weight", "pos_embedding", "rows"),
    ("vision_model.embeddings.patch_embedding", "patch_embedding", "image_patch"),
    ("visual_projection.weight", "head", "transposed"),  # of CLIPVisionModelWithProjection
    ("vision_model.pre_layrnorm", "pre_norm", "norm"),  # their spelling
    ("vision_model.post_layernorm", "post_norm", "norm"),
    ("vision_model.encoder.layers.{layer}.layer_norm{i}", "blocks/norm{i}", "norm"),
    ("vision_model.encoder.layers.{layer}.self_attn", "blocks/to_qkv", "qkv"),
    ("vision_model.encoder.layers.{layer}.self_attn.out_proj", "blocks/proj", "linear"),
    ("vision_model.encoder.layers.{layer}.mlp.fc1", "blocks/mlp/dense_0", "linear"),
    ("vision_model.encoder.layers.{layer}.mlp.fc2", "blocks/mlp/dense_1", "linear"),
)

PROJECTION = "visual_projection.weight"
IGNORED = "vision_model.embeddings.position_ids"  # a buffer in older files
HEAD_WIDTH = 80  # of CLIP ViT-H, whose number of heads no shape tells


def normalised(tensors: Tensors) -> Tensors:
    """The tensors of the visual part, without the prefix of the original's whole CLIP, with that of transformers."""
    if any(name.startswith("visual.") for name in tensors):
        return tensors.renamed(lambda name: name.removeprefix("visual.") if name.startswith("visual.") else None)
    if "pre_layrnorm.weight" in tensors:
        tensors = tensors.renamed(lambda name: name if name == PROJECTION else "vision_model." + name)
    return tensors.renamed(lambda name: None if name == IGNORED else name)


def infer(tensors: Tensors) -> dict:
    """The original's constructor arguments, from the shapes of its tensors."""
    dim, _, patch, _ = tensors.shape("patch_embedding.weight")
    side = math.isqrt(tensors.shape("pos_embedding")[1] - 1)  # in patches
    config = ImageConfig(
        image_size=side * patch,
        patch=patch,
        dim=dim,
        mlp_ratio=tensors.shape("transformer.0.mlp.0.weight")[0] // dim,
        out_dim=tensors.shape("head")[1],
        num_heads=max(1, dim // HEAD_WIDTH),
        num_layers=layer_count(tensors, "transformer.{layer}.norm1.weight"),
    )
    return config_to_json(config)


def completed(cfg: ImageConfig, tensors: Tensors) -> ImageConfig:
    """The sizes with the width of transformers' projection, of which its config says nothing."""
    return dataclasses.replace(cfg, out_dim=tensors.shape(PROJECTION)[0]) if PROJECTION in tensors else cfg


def config_from_json(config: Mapping) -> ImageConfig:
    """Our sizes from the original's constructor arguments."""
    return ImageConfig(
        image_size=config["image_size"],
        patch=config["patch_size"],
        dim=config["dim"],
        mlp_ratio=config["mlp_ratio"],
        out_dim=config["out_dim"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        eps=config.get("norm_eps", 1e-5),
    )


def config_to_json(cfg: ImageConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {
        "image_size": cfg.image_size,
        "patch_size": cfg.patch,
        "dim": cfg.dim,
        "mlp_ratio": cfg.mlp_ratio,
        "out_dim": cfg.out_dim,
        "num_heads": cfg.num_heads,
        "num_layers": cfg.num_layers,
        "pool_type": "token",
        "pre_norm": True,
        "post_norm": False,
        "activation": "gelu",
        "norm_eps": cfg.eps,
    }


def config_from_diffusers(config: Mapping) -> ImageConfig:
    """Our sizes from the `config.json` of a `CLIPVisionModel`, which has no head."""
    return ImageConfig(
        image_size=config["image_size"],
        patch=config["patch_size"],
        dim=config["hidden_size"],
        mlp_ratio=config["intermediate_size"] // config["hidden_size"],
        out_dim=0,
        num_heads=config["num_attention_heads"],
        num_layers=config["num_hidden_layers"],
        eps=config.get("layer_norm_eps", 1e-5),
    )


def config_to_diffusers(cfg: ImageConfig) -> dict:
    """The `config.json` of a `CLIPVisionModel` for our sizes."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "image_size": cfg.image_size,
        "patch_size": cfg.patch,
        "hidden_size": cfg.dim,
        "intermediate_size": cfg.mlp_ratio * cfg.dim,
        "num_attention_heads": cfg.num_heads,
        "num_hidden_layers": cfg.num_layers,
        "hidden_act": "gelu",
        "layer_norm_eps": cfg.eps,
        "projection_dim": 1024,
    }
