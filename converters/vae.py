"""Wan2.1 VAE: key names of `Wan2.1_VAE.pth`."""

from collections.abc import Mapping

from converters.tables import Row
from mwjax.models.vae import VAEConfig


def _residual(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        (theirs + ".residual.0", ours + "/norm1", "gamma3"),
        (theirs + ".residual.2", ours + "/conv1", "conv3"),
        (theirs + ".residual.3", ours + "/norm2", "gamma3"),
        (theirs + ".residual.6", ours + "/conv2", "conv3"),
        (theirs + ".shortcut", ours + "/shortcut", "conv3"),
    )


VAE: tuple[Row, ...] = (
    ("conv1", "conv1", "conv3"),
    ("conv2", "conv2", "conv3"),
    ("{part}.conv1", "{part}/conv1", "conv3"),
    ("{part}.middle.1.norm", "{part}/middle_1/norm", "gamma2"),
    ("{part}.middle.1.{name}", "{part}/middle_1/{name}", "conv2"),
    *_residual("{part}.middle.{i}", "{part}/middle_{i}"),
    *_residual("{part}.{way}samples.{i}", "{part}/{way}samples_{i}"),
    ("{part}.{way}samples.{i}.resample.1", "{part}/{way}samples_{i}/resample", "conv2"),
    ("decoder.upsamples.{i}.time_conv", "decoder/upsamples_{i}/time_conv", "conv3"),
    ("encoder.downsamples.{i}.time_conv", "encoder/downsamples_{i}", "time"),
    ("{part}.head.0", "{part}/norm", "gamma3"),
    ("{part}.head.2", "{part}/head", "conv3"),
)


def config_from_json(config: Mapping) -> VAEConfig:
    """Our sizes from the original's constructor arguments."""
    down = config.get("temperal_downsample", (False, True, True))
    return VAEConfig(config["dim"], tuple(config["dim_mult"]), config["num_res_blocks"], tuple(down), config.get("z_dim", 16))


def config_to_json(cfg: VAEConfig) -> dict:
    """The original's constructor arguments (its spelling) for our sizes."""
    return {"dim": cfg.dim, "z_dim": cfg.z_dim, "dim_mult": list(cfg.dim_mult), "num_res_blocks": cfg.num_res_blocks,
            "attn_scales": [], "temperal_downsample": list(cfg.temporal_down), "dropout": 0.0}  # fmt: skip
