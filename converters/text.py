"""UMT5 text encoder: key names of `models_t5_umt5-xxl-enc-bf16.pth` and of transformers' `UMT5EncoderModel`."""

from collections.abc import Mapping

from converters.files import Tensors
from converters.tables import Row, layer_count
from mwjax.models.text import TextConfig

ROWS: tuple[Row, ...] = (
    ("token_embedding.weight", "token_embedding", "table"),
    ("norm", "norm", "norm"),
    ("blocks.{layer}.pos_embedding.embedding.weight", "blocks/relative_bias", "table"),
    ("blocks.{layer}.norm{i}", "blocks/norm{i}", "norm"),
    ("blocks.{layer}.ffn.gate.0", "blocks/gate", "linear"),
    ("blocks.{layer}.ffn.fc{i}", "blocks/fc{i}", "linear"),
    ("blocks.{layer}.attn.{name}", "blocks/{name}", "linear"),
)

DIFFUSERS_ROWS: tuple[Row, ...] = (
    ("shared.weight", "token_embedding", "table"),
    ("encoder.final_layer_norm", "norm", "norm"),
    ("encoder.block.{layer}.layer.0.layer_norm", "blocks/norm1", "norm"),
    ("encoder.block.{layer}.layer.1.layer_norm", "blocks/norm2", "norm"),
    ("encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight", "blocks/relative_bias", "table"),
    ("encoder.block.{layer}.layer.1.DenseReluDense.wi_0", "blocks/gate", "linear"),
    ("encoder.block.{layer}.layer.1.DenseReluDense.wi_1", "blocks/fc1", "linear"),
    ("encoder.block.{layer}.layer.1.DenseReluDense.wo", "blocks/fc2", "linear"),
    ("encoder.block.{layer}.layer.0.SelfAttention.{name}", "blocks/{name}", "linear"),
)

TABLE = "shared.weight"
COPY = "encoder.embed_tokens.weight"  # some files hold the embedding table under this name, or under this one too


def normalised(tensors: Tensors) -> Tensors:
    """The tensors with one embedding table, under its own name."""
    copy = None if TABLE in tensors else TABLE
    return tensors.renamed(lambda name: copy if name == COPY else name)


def infer(tensors: Tensors) -> dict:
    """The original's constructor arguments, from the shapes of its tensors."""
    vocab, dim = tensors.shape("token_embedding.weight")
    buckets, heads = tensors.shape("blocks.0.pos_embedding.embedding.weight")
    config = TextConfig(
        vocab=vocab,
        dim=dim,
        dim_attn=tensors.shape("blocks.0.attn.q.weight")[0],
        dim_ffn=tensors.shape("blocks.0.ffn.fc1.weight")[0],
        num_heads=heads,
        num_layers=layer_count(tensors, "blocks.{layer}.norm1.weight"),
        num_buckets=buckets,
    )
    return config_to_json(config)


def config_from_json(config: Mapping) -> TextConfig:
    """Our sizes from the original's constructor arguments."""
    return TextConfig(
        vocab=config["vocab"],
        dim=config["dim"],
        dim_attn=config["dim_attn"],
        dim_ffn=config["dim_ffn"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        num_buckets=config["num_buckets"],
    )


def config_to_json(cfg: TextConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {
        "vocab": cfg.vocab,
        "dim": cfg.dim,
        "dim_attn": cfg.dim_attn,
        "dim_ffn": cfg.dim_ffn,
        "num_heads": cfg.num_heads,
        "num_layers": cfg.num_layers,
        "num_buckets": cfg.num_buckets,
        "shared_pos": False,
        "dropout": 0.0,
    }


def config_from_diffusers(config: Mapping) -> TextConfig:
    """Our sizes from the `config.json` of a `UMT5EncoderModel`."""
    return TextConfig(
        vocab=config["vocab_size"],
        dim=config["d_model"],
        dim_attn=config["d_kv"] * config["num_heads"],
        dim_ffn=config["d_ff"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        num_buckets=config["relative_attention_num_buckets"],
        max_distance=config.get("relative_attention_max_distance", 128),
    )


def config_to_diffusers(cfg: TextConfig) -> dict:
    """The `config.json` of a `UMT5EncoderModel` for our sizes."""
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": cfg.vocab,
        "d_model": cfg.dim,
        "d_kv": cfg.dim_attn // cfg.num_heads,
        "d_ff": cfg.dim_ffn,
        "num_heads": cfg.num_heads,
        "num_layers": cfg.num_layers,
        "relative_attention_num_buckets": cfg.num_buckets,
        "relative_attention_max_distance": cfg.max_distance,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "dropout_rate": 0.0,
    }
