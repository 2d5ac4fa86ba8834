"""The small inverse dynamics model that reads keys and camera off ViZDoom clips; how `mwjax/assets/idm_vizdoom` was
made.

    python -m mwjax.train --config idm_vizdoom     # about half an hour on two cores

VPT's architecture, narrow, at the tiny model's size of picture. A part of the clips is seen a second time through the
tiny autoencoder, since what it will read is generated. Leaves OUT/model: weights under VPT's key names, sizes, and
its accuracy on levels it has never seen.
"""

import ml_collections

from mwjax.worlds.levels import arenas


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.out = "runs/idm_vizdoom"
    config.seed = 0
    config.model = "tiny"  # whose autoencoder is used
    config.dataset = ""  # a dataset folder in the released layout; "" records one
    clips = {"clips": 18, "frames": 17, "size": (96, 160)}
    config.record = {"levels": arenas(360, 1000), "scenes": 360, "seed": 11, **clips}
    config.framing = {"frames": 17, "height": 48, "width": 80, "shrink": 2}
    stage = {"steps": 1800, "batch": 16, "lr": 5e-3, "optimizer": "muon", "warmup": 50, "weight_decay": 0.0}
    config.stages = [
        {
            "name": "idm",
            **stage,
            "clip": 10.0,
            "b2": 0.99,
            "autoencoded": 0.15,
            "network": {"image_size": (24, 40), "conv3d": 16, "channels": (16, 32, 32), "dim": 192, "num_heads": 6},
            "test": {"levels": arenas(30, 9500), "scenes": 30, "seed": 12, **clips},
        }
    ]  # the network is VPT at impala width 1
    return config
