"""The main job on a laptop: record ViZDoom gameplay, train the tiny world model in two stages, sample a video.

    python -m mwjax.train --config tiny_t2w_controlnet

About 15 minutes and 2 GB of memory on two cores. Leaves runs/tiny_t2w_controlnet/ with the dataset, checkpoints and
curves of both stages, a model folder for mwjax.sample, and videos with the keys drawn on. The variant `:long` records
more and trains three times as long."""

import ml_collections

from mwjax.worlds.levels import arenas


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in ("", "long"):
        raise ValueError(f"variant {variant!r} is unknown; use none or long")
    long = variant == "long"
    config = ml_collections.ConfigDict()
    config.out = "runs/tiny_t2w_controlnet" + ("_long" if long else "")
    config.seed = 0
    config.model = "tiny"  # the shipped base; or a model folder
    config.control = {"kind": "controlnet", "action_dim": 192}
    config.dataset = ""  # a dataset folder in the released layout; "" records one
    # One thing held at a time more often than by default, so that each can be learnt alone; faster and wider looking
    # up and down.
    policy = (
        ("still", (0.3, 0.6)),
        ("pitch", (1.0, 3.0)),
        ("max_pitch", 20.0),
        ("mouse", (0.45, 0.2, 0.3, 0.05)),
        ("special", (0.79, 0.07, 0.07, 0.07)),
    )
    scenes = 300 if long else 120
    config.record = {
        "levels": arenas(scenes, 2000),
        "scenes": scenes,
        "clips": 18,
        "frames": 17,
        "size": (96, 160),
        "seed": 1,
        "policy_options": policy,
    }
    config.framing = {"frames": 17, "height": 48, "width": 80, "shrink": 2, "mirror": True}
    # Far fewer steps than AdamW from a fresh start.
    muon = {"optimizer": "muon", "warmup": 50, "weight_decay": 0.0, "clip": 1.0, "b2": 0.99}
    config.stages = [
        {
            "name": "lora",
            "steps": 500 if long else 60,
            "batch": 16,
            "lr": 1e-4,
            "warmup": 20,
            "weight_decay": 3e-2,
            "eps": 1e-10,
            "rank": 16,
            "alpha": 8.0,
        },
        {"name": "action", "steps": 3000 if long else 1000, "batch": 16, "lr": 1e-2, "motion": 0.2, **muon},
    ]
    config.sampling = {"steps": 30, "shift": 3.0, "guidance": 1.0, "action_guidance": 5.0}
    config.lora_scale = 1.0
    config.memory = {"unroll": True}  # six small blocks
    return config
