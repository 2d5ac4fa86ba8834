"""Wan2.1 backbone and Micro-World action branch: key names as released."""

from collections.abc import Iterable, Mapping

from converters.tables import Row
from mwjax.models.dit import DiTConfig
from mwjax.models.world_model import WorldConfig


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


BACKBONE: tuple[Row, ...] = (
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

ACTION: tuple[Row, ...] = (
    ("action_preprocess.{name}.0", "action_encoder/{name}/dense_0", "linear"),
    ("action_preprocess.{name}.2", "action_encoder/{name}/dense_1", "linear"),
    ("action_blocks.0.before_proj", "controlnet/before_proj", "linear"),
    ("action_blocks.{layer}.after_proj", "controlnet/after_proj", "linear"),
    *_blocks("action_blocks.{layer}", "controlnet/blocks"),
    ("blocks.{layer}.action_adaLN_modulation.1", "adaln", "linear"),
)

WORLD = BACKBONE + ACTION


def control_of(names: Iterable[str]) -> str:
    """How a transformer with these key names is controlled."""
    names = list(names)
    if any(name.startswith("action_blocks.") for name in names):
        return "controlnet"
    return "adaln" if any(".action_adaLN_modulation." in name for name in names) else "none"


def config_from_json(config: Mapping, *, control: str = "none") -> WorldConfig:
    """Our sizes from the original's constructor arguments (a released `config.json`)."""
    backbone = DiTConfig(
        dim=config["dim"], ffn_dim=config["ffn_dim"], num_heads=config["num_heads"], num_layers=config["num_layers"],
        in_dim=config.get("in_dim", 16), out_dim=config.get("out_dim", 16), text_dim=config.get("text_dim", 4096),
        text_len=config.get("text_len", 512), freq_dim=config.get("freq_dim", 256), eps=config.get("eps", 1e-6),
        image_dim=config.get("image_dim", 1280) if config.get("model_type") == "i2v" else 0,
    )  # fmt: skip
    return WorldConfig(backbone, control=control, action_dim=config.get("action_dim", 1536))


def config_to_json(cfg: WorldConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    b = cfg.backbone
    out = {
        "model_type": "i2v" if b.image_dim else "t2v",
        "patch_size": [1, b.patch, b.patch], "dim": b.dim, "ffn_dim": b.ffn_dim, "num_heads": b.num_heads, "num_layers": b.num_layers,
        "in_dim": b.in_dim, "out_dim": b.out_dim, "text_dim": b.text_dim, "text_len": b.text_len, "freq_dim": b.freq_dim,
        "qk_norm": True, "cross_attn_norm": True, "eps": b.eps,
    }  # fmt: skip
    out |= {"image_dim": b.image_dim} if b.image_dim not in (0, 1280) else {}
    return out if cfg.control == "none" else out | {"action_dim": cfg.action_dim, "mouse_dim": 2, "keyboard_dim": 7}
