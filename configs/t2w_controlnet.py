"""The released T2W recipe: game LoRA, then ControlNet action stage, on Wan2.1-T2V-1.3B, 81 frames at 352×640.

    python -m mwjax.train --config t2w_controlnet --config.model=DIR --config.dataset=DIR

DIR of the model is a converted Wan2.1-T2V-1.3B folder, DIR of the dataset amd/Micro-World-MC-Dataset or a recording
(mwjax.collect) in its layout. Needs an accelerator; on a laptop use tiny_t2w_controlnet.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.out = "runs/t2w_controlnet"
    config.seed = 43
    config.model = "models/Wan2.1-T2V-1.3B"
    config.control = {"kind": "controlnet", "action_dim": 1536}
    config.dataset = "datasets/Micro-World-MC-Dataset"
    config.record = None
    config.framing = {"frames": 81, "height": 352, "width": 640, "shrink": 1}
    config.stages = [
        {
            "name": "lora",
            "steps": 10000,
            "batch": 8,
            "lr": 1e-4,
            "weight_decay": 3e-2,
            "eps": 1e-10,
            "rank": 128,
            "alpha": 64.0,
            "shorter": 0.1,
            "save_every": 500,
        },
        {
            "name": "action",
            "steps": 20000,
            "batch": 8,
            "lr": 1e-5,
            "weight_decay": 0.1,
            "motion": 0.2,
            "shorter": 0.1,
            "save_every": 500,
        },
    ]
    config.sampling = {"steps": 30, "shift": 3.0, "guidance": 3.0}
    config.lora_scale = 1.0
    config.mesh = {"data": 1, "fsdp": -1, "sequence": 1, "tensor": 1}
    config.memory = {"frozen": "bfloat16", "compute": "bfloat16", "remat": "blocks"}
    return config
