"""The small inverse dynamics model that reads keys and camera off ViZDoom clips; how `mwjax/assets/idm_vizdoom` was made.

    python -m mwjax.evaluation.train_idm --config configs/idm_vizdoom.py

VPT's architecture, narrow, at the tiny model's size of picture. A part of the clips is seen a second time through the tiny
autoencoder, since what it will read is generated.
"""

import ml_collections

from mwjax.worlds.levels import arenas


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.out = "runs/idm_vizdoom"
    config.seed = 0
    config.dataset = ""  # a dataset folder in the released layout; "" records one
    config.record = {"levels": arenas(360, 1000), "scenes": 360, "clips": 18, "frames": 17, "size": (96, 160), "seed": 11}
    config.test = {"levels": arenas(30, 9500), "scenes": 30, "clips": 18, "frames": 17, "size": (96, 160), "seed": 12}
    config.size, config.shrink = (48, 80), 2  # of the clips, as the tiny model makes them
    config.autoencoder, config.autoencoded = "tiny", 0.15
    config.network = {"image_size": (24, 40), "conv3d": 16, "channels": (16, 32, 32), "dim": 192, "num_heads": 6}  # VPT at impala width 1
    config.stage = {"name": "idm", "steps": 1800, "batch": 16, "lr": 5e-3, "optimizer": "muon", "warmup": 50, "weight_decay": 0.0, "clip": 10.0, "b2": 0.99}
    return config
