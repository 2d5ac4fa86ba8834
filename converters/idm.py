"""Inverse dynamics model: key names of VPT's `4x_idm.weights`, which models trained here use too."""

from collections.abc import Mapping

from converters.tables import Row
from mwjax.errors import InputError
from mwjax.evaluation.networks.idm import IDMConfig

ROWS: tuple[Row, ...] = (
    ("net.conv3d_layer.layer", "conv3d", "conv3_flat"),
    ("net.img_process.cnn.stacks.{i}.firstconv.norm", "frames/stack_{i}/first/norm", "norm"),
    ("net.img_process.cnn.stacks.{i}.firstconv.layer", "frames/stack_{i}/first", "conv2"),
    ("net.img_process.cnn.stacks.{i}.n", "frames/stack_{i}/norm", "norm"),
    ("net.img_process.cnn.stacks.{i}.blocks.{j}.conv{k}.norm", "frames/stack_{i}/block_{j}_conv{k}/norm", "norm"),
    ("net.img_process.cnn.stacks.{i}.blocks.{j}.conv{k}.layer", "frames/stack_{i}/block_{j}_conv{k}", "conv2"),
    ("net.img_process.cnn.dense.norm", "frames/dense/norm", "norm"),
    ("net.img_process.cnn.dense.layer", "frames/dense", "linear"),
    ("net.img_process.linear.norm", "frames/linear/norm", "norm"),
    ("net.img_process.linear.layer", "frames/linear", "linear"),
    ("net.recurrent_layer.blocks.{i}.pre_r_ln", "block_{i}/norm", "norm"),
    ("net.recurrent_layer.blocks.{i}.r.orc_block.{name}_layer", "block_{i}/{name}", "linear"),
    ("net.recurrent_layer.blocks.{i}.mlp{j}.norm", "block_{i}/mlp{j}/norm", "norm"),
    ("net.recurrent_layer.blocks.{i}.mlp{j}.layer", "block_{i}/mlp{j}", "linear"),
    ("net.final_ln", "final_norm", "norm"),
    ("pi_head.{name}.linear_layer", "{name}", "linear"),
)

# In the released file and never used: a layer whose output is thrown away, and relative positions over a memory of no
# length.
UNUSED = ("net.lastlayer.", ".b_nd", ".r_layer.")
WIDTHS = (16, 32, 32)  # channels of the three stacks at an `impala_width` of 1


def used(name: str) -> str | None:
    """The name, or None for tensors that the model does not use."""
    return None if any(part in name for part in UNUSED) else name


def config_from_json(config: Mapping, *, frames_at_once: int = 0) -> IDMConfig:
    """Our sizes from the original's constructor arguments, `net` of the `.model` file. Raises InputError for those of a
    model that is recurrent or causal."""
    mask = config.get("attention_mask_style", "none")
    recurrence = config.get("recurrence_type", "transformer")
    if (mask, recurrence) != ("none", "transformer"):
        raise InputError(
            "this inverse dynamics model is recurrent or causal; only VPT's bidirectional transformer is known"
        )
    return IDMConfig(
        image_size=tuple(config["img_shape"][:2]),
        conv3d=config["conv3d_params"]["outchan"],
        channels=tuple(round(config["impala_width"] * width) for width in WIDTHS),
        dim=config["hidsize"],
        num_heads=config["attention_heads"],
        num_layers=config["n_recurrence_layers"],
        mlp_ratio=config["pointwise_ratio"],
        frames_at_once=frames_at_once,
    )


def config_to_json(cfg: IDMConfig) -> dict:
    """The original's constructor arguments for our sizes."""
    return {
        "attention_heads": cfg.num_heads,
        "attention_mask_style": "none",
        "attention_memory_size": 128,
        "timesteps": 128,
        "hidsize": cfg.dim,
        "conv3d_params": {"inchan": 3, "outchan": cfg.conv3d, "kernel_size": [5, 1, 1], "padding": [2, 0, 0]},
        "img_shape": [*cfg.image_size, cfg.conv3d],
        "impala_width": cfg.channels[0] / WIDTHS[0],
        "impala_kwargs": {"post_pool_groups": 1},
        "init_norm_kwargs": {"batch_norm": False, "group_norm_groups": 1},
        "n_recurrence_layers": cfg.num_layers,
        "pointwise_ratio": cfg.mlp_ratio,
        "pointwise_use_activation": False,
        "recurrence_is_residual": True,
        "recurrence_type": "transformer",
        "single_output": True,
        "use_pointwise_layer": True,
        "use_pre_lstm_ln": False,
        "only_img_input": True,
    }
