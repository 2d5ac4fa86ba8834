"""UMT5 text encoder: key names of `models_t5_umt5-xxl-enc-bf16.pth`."""

from collections.abc import Mapping

from converters.tables import Row
from mwjax.models.text import TextConfig

TEXT: tuple[Row, ...] = (
    ("token_embedding.weight", "token_embedding", "table"),
    ("norm", "norm", "norm"),
    ("blocks.{layer}.pos_embedding.embedding.weight", "blocks/relative_bias", "table"),
    ("blocks.{layer}.norm{i}", "blocks/norm{i}", "norm"),
    ("blocks.{layer}.ffn.gate.0", "blocks/gate", "linear"),
    ("blocks.{layer}.ffn.fc{i}", "blocks/fc{i}", "linear"),
    ("blocks.{layer}.attn.{name}", "blocks/{name}", "linear"),
)


def config_from_json(config: Mapping) -> TextConfig:
    """Our sizes from the original's constructor arguments."""
    return TextConfig(config["vocab"], config["dim"], config["dim_attn"], config["dim_ffn"], config["num_heads"], config["num_layers"], config["num_buckets"])


def config_to_json(cfg: TextConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {"vocab": cfg.vocab, "dim": cfg.dim, "dim_attn": cfg.dim_attn, "dim_ffn": cfg.dim_ffn, "num_heads": cfg.num_heads,
            "num_layers": cfg.num_layers, "num_buckets": cfg.num_buckets, "shared_pos": False, "dropout": 0.0}  # fmt: skip
