"""Wan2.1 VAE: key names of `Wan2.1_VAE.pth` and of diffusers' `AutoencoderKLWan`."""

import re
from collections.abc import Mapping

from converters.files import Tensors
from converters.tables import Row
from mwjax.models.vae import LATENT_MEAN, LATENT_STD, VAEConfig


def _residual(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        (theirs + ".residual.0", ours + "/norm1", "gamma3"),
        (theirs + ".residual.2", ours + "/conv1", "conv3"),
        (theirs + ".residual.3", ours + "/norm2", "gamma3"),
        (theirs + ".residual.6", ours + "/conv2", "conv3"),
        (theirs + ".shortcut", ours + "/shortcut", "conv3"),
    )


ROWS: tuple[Row, ...] = (
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


def _diffusers_residual(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        (theirs + ".norm1", ours + "/norm1", "gamma3"),
        (theirs + ".conv1", ours + "/conv1", "conv3"),
        (theirs + ".norm2", ours + "/norm2", "gamma3"),
        (theirs + ".conv2", ours + "/conv2", "conv3"),
        (theirs + ".conv_shortcut", ours + "/shortcut", "conv3"),
    )


def diffusers_rows(cfg: VAEConfig) -> tuple[Row, ...]:
    """Rows of the diffusers layout: its decoder numbers levels and blocks within a level."""
    per_level = cfg.num_res_blocks + 2
    ups: tuple[Row, ...] = ()
    for index in range(per_level * len(cfg.dim_mult) - 1):
        level, place = divmod(index, per_level)
        ours = f"decoder/upsamples_{index}"
        if place < per_level - 1:
            ups += _diffusers_residual(f"decoder.up_blocks.{level}.resnets.{place}", ours)
        else:
            theirs = f"decoder.up_blocks.{level}.upsamplers.0"
            ups += ((theirs + ".resample.1", ours + "/resample", "conv2"),)
            ups += ((theirs + ".time_conv", ours + "/time_conv", "conv3"),)
    return (
        ("quant_conv", "conv1", "conv3"),
        ("post_quant_conv", "conv2", "conv3"),
        ("{part}.conv_in", "{part}/conv1", "conv3"),
        ("{part}.mid_block.attentions.0.norm", "{part}/middle_1/norm", "gamma2"),
        ("{part}.mid_block.attentions.0.{name}", "{part}/middle_1/{name}", "conv2"),
        *_diffusers_residual("{part}.mid_block.resnets.0", "{part}/middle_0"),
        *_diffusers_residual("{part}.mid_block.resnets.1", "{part}/middle_2"),
        *_diffusers_residual("encoder.down_blocks.{i}", "encoder/downsamples_{i}"),
        ("encoder.down_blocks.{i}.resample.1", "encoder/downsamples_{i}/resample", "conv2"),
        ("encoder.down_blocks.{i}.time_conv", "encoder/downsamples_{i}", "time"),
        *ups,
        ("{part}.norm_out", "{part}/norm", "gamma3"),
        ("{part}.conv_out", "{part}/head", "conv3"),
    )


def normalised(tensors: Tensors) -> Tensors:
    """The tensors without the prefix under which some files keep them."""
    return tensors.renamed(lambda name: name.removeprefix("model."))


def infer(tensors: Tensors) -> dict:
    """The original's constructor arguments, from a walk down the encoder: widths, blocks per level, and where time is
    halved."""
    dim = tensors.shape("encoder.conv1.weight")[0]
    indices = [int(found[1]) for name in tensors if (found := re.match(r"encoder\.downsamples\.(\d+)\.", name))]
    widths = []
    temporal = []
    blocks = 0
    for index in range(1 + max(indices)):
        start = f"encoder.downsamples.{index}."
        if start + "resample.1.weight" in tensors:
            temporal.append(start + "time_conv.weight" in tensors)
            continue
        width = tensors.shape(start + "residual.2.weight")[0]
        if len(widths) <= len(temporal):  # the first block of a level
            widths.append(width)
        blocks += len(widths) == 1
    multiples = tuple(width // dim for width in widths)
    latent = tensors.shape("conv2.weight")[0]
    return config_to_json(VAEConfig(dim, multiples, blocks, tuple(temporal), latent))


def config_from_json(config: Mapping) -> VAEConfig:
    """Our sizes from the original's constructor arguments."""
    return VAEConfig(
        dim=config["dim"],
        dim_mult=tuple(config["dim_mult"]),
        num_res_blocks=config["num_res_blocks"],
        temporal_down=tuple(config.get("temperal_downsample", (False, True, True))),
        z_dim=config.get("z_dim", 16),
    )


def config_to_json(cfg: VAEConfig) -> dict:
    """The original's constructor arguments (its spelling) for our sizes."""
    return {
        "dim": cfg.dim,
        "z_dim": cfg.z_dim,
        "dim_mult": list(cfg.dim_mult),
        "num_res_blocks": cfg.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(cfg.temporal_down),
        "dropout": 0.0,
    }


def config_from_diffusers(config: Mapping) -> VAEConfig:
    """Our sizes from the `config.json` of an `AutoencoderKLWan`."""
    return VAEConfig(
        dim=config["base_dim"],
        dim_mult=tuple(config["dim_mult"]),
        num_res_blocks=config["num_res_blocks"],
        temporal_down=tuple(config["temperal_downsample"]),
        z_dim=config["z_dim"],
    )


def config_to_diffusers(cfg: VAEConfig) -> dict:
    """The `config.json` of an `AutoencoderKLWan` (its spelling) for our sizes."""
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": cfg.dim,
        "z_dim": cfg.z_dim,
        "dim_mult": list(cfg.dim_mult),
        "num_res_blocks": cfg.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(cfg.temporal_down),
        "dropout": 0.0,
        "latents_mean": [round(float(value), 4) for value in LATENT_MEAN],
        "latents_std": [round(float(value), 4) for value in LATENT_STD],
    }
