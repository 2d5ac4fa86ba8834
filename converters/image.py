"""CLIP image encoder: key names of the visual part of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`."""

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


def config_from_json(config: Mapping) -> ImageConfig:
    """Our sizes from the original's constructor arguments."""
    return ImageConfig(config["image_size"], config["patch_size"], config["dim"], config["mlp_ratio"], config["out_dim"],
                       config["num_heads"], config["num_layers"], config.get("norm_eps", 1e-5))  # fmt: skip


def config_to_json(cfg: ImageConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {"image_size": cfg.image_size, "patch_size": cfg.patch, "dim": cfg.dim, "mlp_ratio": cfg.mlp_ratio, "out_dim": cfg.out_dim,
            "num_heads": cfg.num_heads, "num_layers": cfg.num_layers, "pool_type": "token", "pre_norm": True, "post_norm": False,
            "activation": "gelu", "norm_eps": cfg.eps}  # fmt: skip
