"""Wan2.1 backbone and Micro-World action modules: key names as released and in diffusers' `WanTransformer3DModel`."""

from collections.abc import Iterable, Mapping

from converters.tables import Row
from mwjax.models.block import DiTConfig
from mwjax.models.world_model import WorldConfig

TEXT_LEN = 512  # tokens that a diffusers pipeline pads prompts to, unless told otherwise; its config does not say
IMAGE_DIM = 1280  # of CLIP ViT-H/14, which released configs leave out
CONTROL_KEYS = ((".action_blocks.", "controlnet"), (".action_adaLN_modulation.", "adaln"))


def _blocks(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        (theirs + ".modulation", ours + "/modulation", "modulation"),
        (theirs + ".{part}_attn.norm_q", ours + "/{part}_attn/norm_q", "norm"),
        (theirs + ".{part}_attn.norm_k", ours + "/{part}_attn/norm_k", "norm"),
        (theirs + ".{part}_attn.norm_k_img", ours + "/{part}_attn/norm_k_img", "norm"),
        (theirs + ".{part}_attn.{name}", ours + "/{part}_attn/{name}", "linear"),
        (theirs + ".norm3", ours + "/norm3", "norm"),
        (theirs + ".ffn.0", ours + "/ffn/dense_0", "linear"),
        (theirs + ".ffn.2", ours + "/ffn/dense_1", "linear"),
    )


BACKBONE_ROWS: tuple[Row, ...] = (
    ("patch_embedding", "backbone/patch_embedding", "patch"),
    ("time_projection.1", "backbone/time_projection", "linear"),
    ("{part}_embedding.0", "backbone/{part}_embedding/dense_0", "linear"),
    ("{part}_embedding.2", "backbone/{part}_embedding/dense_1", "linear"),
    ("img_emb.proj.0", "backbone/image_embedding/norm_in", "norm"),
    ("img_emb.proj.1", "backbone/image_embedding/mlp/dense_0", "linear"),
    ("img_emb.proj.3", "backbone/image_embedding/mlp/dense_1", "linear"),
    ("img_emb.proj.4", "backbone/image_embedding/norm_out", "norm"),
    *_blocks("blocks.{layer}", "backbone/blocks"),
    ("head.modulation", "backbone/head_modulation", "modulation"),
    ("head.head", "backbone/head", "linear"),
)

ACTION_ROWS: tuple[Row, ...] = (
    ("action_preprocess.{name}.0", "action_encoder/{name}/dense_0", "linear"),
    ("action_preprocess.{name}.2", "action_encoder/{name}/dense_1", "linear"),
    ("action_blocks.0.before_proj", "controlnet/before_proj", "linear"),
    ("action_blocks.{layer}.after_proj", "controlnet/after_proj", "linear"),
    *_blocks("action_blocks.{layer}", "controlnet/blocks"),
    ("blocks.{layer}.action_adaLN_modulation.1", "adaln", "linear"),
)

WORLD_ROWS = BACKBONE_ROWS + ACTION_ROWS

DIFFUSERS_ROWS: tuple[Row, ...] = (
    ("patch_embedding", "backbone/patch_embedding", "patch"),
    ("condition_embedder.time_proj", "backbone/time_projection", "linear"),
    ("condition_embedder.{part}_embedder.linear_1", "backbone/{part}_embedding/dense_0", "linear"),
    ("condition_embedder.{part}_embedder.linear_2", "backbone/{part}_embedding/dense_1", "linear"),
    ("condition_embedder.image_embedder.norm1", "backbone/image_embedding/norm_in", "norm"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "backbone/image_embedding/mlp/dense_0", "linear"),
    ("condition_embedder.image_embedder.ff.net.2", "backbone/image_embedding/mlp/dense_1", "linear"),
    ("condition_embedder.image_embedder.norm2", "backbone/image_embedding/norm_out", "norm"),
    ("blocks.{layer}.scale_shift_table", "backbone/blocks/modulation", "modulation"),
    *(
        row
        for theirs, part in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for row in (
            (f"blocks.{{layer}}.{theirs}.norm_added_k", f"backbone/blocks/{part}/norm_k_img", "norm"),
            (f"blocks.{{layer}}.{theirs}.norm_{{name}}", f"backbone/blocks/{part}/norm_{{name}}", "norm"),
            (f"blocks.{{layer}}.{theirs}.to_out.0", f"backbone/blocks/{part}/o", "linear"),
            (f"blocks.{{layer}}.{theirs}.add_{{name}}_proj", f"backbone/blocks/{part}/{{name}}_img", "linear"),
            (f"blocks.{{layer}}.{theirs}.to_{{name}}", f"backbone/blocks/{part}/{{name}}", "linear"),
        )
    ),
    (
        "blocks.{layer}.norm2",
        "backbone/blocks/norm3",
        "norm",
    ),  # the norms before self-attention and MLP have no weights
    ("blocks.{layer}.ffn.net.0.proj", "backbone/blocks/ffn/dense_0", "linear"),
    ("blocks.{layer}.ffn.net.2", "backbone/blocks/ffn/dense_1", "linear"),
    ("scale_shift_table", "backbone/head_modulation", "modulation"),
    ("proj_out", "backbone/head", "linear"),
)


def controls_of(names: Iterable[str]) -> tuple[str, ...]:
    """How a transformer with these key names is controlled."""
    found = {control for name in names for part, control in CONTROL_KEYS if part in f".{name}"}
    return tuple(control for _, control in CONTROL_KEYS if control in found)


def config_from_json(config: Mapping, *, controls: tuple[str, ...] = ()) -> WorldConfig:
    """Our sizes from the original's constructor arguments (a released `config.json`)."""
    image = config.get("model_type") == "i2v"
    backbone = DiTConfig(
        dim=config["dim"],
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        in_dim=config.get("in_dim", 16),
        out_dim=config.get("out_dim", 16),
        text_dim=config.get("text_dim", 4096),
        text_len=config.get("text_len", TEXT_LEN),
        freq_dim=config.get("freq_dim", 256),
        eps=config.get("eps", 1e-6),
        image_dim=config.get("image_dim", IMAGE_DIM) if image else 0,
    )
    return WorldConfig(backbone, controls, config.get("action_dim", 1536))


def config_to_json(cfg: WorldConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    b = cfg.backbone
    out = {
        "model_type": "i2v" if b.image_dim else "t2v",
        "patch_size": [1, b.patch, b.patch],
        "dim": b.dim,
        "ffn_dim": b.ffn_dim,
        "num_heads": b.num_heads,
        "num_layers": b.num_layers,
        "in_dim": b.in_dim,
        "out_dim": b.out_dim,
        "text_dim": b.text_dim,
        "text_len": b.text_len,
        "freq_dim": b.freq_dim,
        "qk_norm": True,
        "cross_attn_norm": True,
        "eps": b.eps,
    }
    if b.image_dim not in (0, IMAGE_DIM):
        out["image_dim"] = b.image_dim
    if cfg.controls:
        out |= {"action_dim": cfg.action_dim, "mouse_dim": 2, "keyboard_dim": 7}
    return out


def config_from_diffusers(config: Mapping) -> WorldConfig:
    """Our sizes from the `config.json` of a `WanTransformer3DModel`."""
    backbone = DiTConfig(
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_attention_heads"],
        num_layers=config["num_layers"],
        in_dim=config["in_channels"],
        out_dim=config["out_channels"],
        text_dim=config["text_dim"],
        text_len=config.get("text_len", TEXT_LEN),
        freq_dim=config["freq_dim"],
        eps=config["eps"],
        image_dim=config.get("image_dim") or 0,
    )
    return WorldConfig(backbone)


def config_to_diffusers(cfg: WorldConfig) -> dict:
    """The `config.json` of a `WanTransformer3DModel` for our sizes."""
    b = cfg.backbone
    odd = {} if b.text_len == TEXT_LEN else {"text_len": b.text_len}
    return odd | {
        "_class_name": "WanTransformer3DModel",
        "patch_size": [1, b.patch, b.patch],
        "num_attention_heads": b.num_heads,
        "attention_head_dim": b.dim // b.num_heads,
        "in_channels": b.in_dim,
        "out_channels": b.out_dim,
        "text_dim": b.text_dim,
        "freq_dim": b.freq_dim,
        "ffn_dim": b.ffn_dim,
        "num_layers": b.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": b.eps,
        "image_dim": b.image_dim or None,
        "added_kv_proj_dim": b.dim if b.image_dim else None,
        "rope_max_seq_len": 1024,
    }
