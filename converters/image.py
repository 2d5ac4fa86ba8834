"""CLIP image encoder: key names of the visual part of Wan2.1's `models_clip_….pth` and of transformers' `CLIPVisionModel`."""

from collections.abc import Mapping

from converters.tables import Row
from mwjax.models.image import ImageConfig

IMAGE: tuple[Row, ...] = (
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

DIFFUSERS: tuple[Row, ...] = (
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

IGNORED = "vision_model.embeddings.position_ids"  # a buffer in older files


def config_from_json(config: Mapping) -> ImageConfig:
    """Our sizes from the original's constructor arguments."""
    return ImageConfig(config["image_size"], config["patch_size"], config["dim"], config["mlp_ratio"], config["out_dim"],
                       config["num_heads"], config["num_layers"], config.get("norm_eps", 1e-5))  # fmt: skip


def config_to_json(cfg: ImageConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {"image_size": cfg.image_size, "patch_size": cfg.patch, "dim": cfg.dim, "mlp_ratio": cfg.mlp_ratio, "out_dim": cfg.out_dim,
            "num_heads": cfg.num_heads, "num_layers": cfg.num_layers, "pool_type": "token", "pre_norm": True, "post_norm": False,
            "activation": "gelu", "norm_eps": cfg.eps}  # fmt: skip


def config_from_diffusers(config: Mapping) -> ImageConfig:
    """Our sizes from the `config.json` of a `CLIPVisionModel`, which has no head."""
    return ImageConfig(config["image_size"], config["patch_size"], config["hidden_size"], config["intermediate_size"] // config["hidden_size"], 0,
                       config["num_attention_heads"], config["num_hidden_layers"], config.get("layer_norm_eps", 1e-5))  # fmt: skip


def config_to_diffusers(cfg: ImageConfig) -> dict:
    """The `config.json` of a `CLIPVisionModel` for our sizes."""
    return {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "image_size": cfg.image_size, "patch_size": cfg.patch,
            "hidden_size": cfg.dim, "intermediate_size": cfg.mlp_ratio * cfg.dim, "num_attention_heads": cfg.num_heads,
            "num_hidden_layers": cfg.num_layers, "hidden_act": "gelu", "layer_norm_eps": cfg.eps, "projection_dim": 1024}  # fmt: skip
