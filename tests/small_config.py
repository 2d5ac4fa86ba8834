"""The whole job at toy size, for tests: seconds instead of minutes."""

import os

import ml_collections

from mwjax.worlds.levels import arenas


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.out = os.environ.get("MWJAX_TEST_OUT", "runs/small")
    config.seed = 0
    config.model = "tiny"
    config.control = {"kind": "controlnet", "action_dim": 32}
    config.dataset = ""
    config.record = {"levels": arenas(2, 2000), "scenes": 2, "clips": 4, "frames": 5, "size": (96, 160), "seed": 1}
    config.framing = {"frames": 5, "height": 32, "width": 48, "shrink": 2}
    config.stages = [
        {"name": "lora", "steps": 8, "batch": 2, "lr": 1e-4, "rank": 4, "alpha": 2.0, "save_every": 3, "log_every": 1},
        {"name": "action", "steps": 12, "batch": 2, "lr": 1e-3, "motion": 0.2, "save_every": 3, "log_every": 1},
    ]
    config.sampling = {"steps": 2, "shift": 3.0, "guidance": 3.0}
    config.lora_scale = 1.0
    config.mesh = {"data": 1, "fsdp": -1, "sequence": 1, "tensor": 1}
    config.memory = {"frozen": "float32", "compute": "float32", "remat": "none"}
    return config
