"""How the shipped tiny base was made: VAE, then backbone, on recorded ViZDoom gameplay.

    python -m mwjax.train --config tiny_base:vae        # about 50 minutes on two cores
    python -m mwjax.train --config tiny_base:backbone   # about 45 minutes; starts from the VAE above
    python -m mwjax.train --config tiny_base:walk       # about 45 minutes; goes on from the backbone, more walking

The model folder of the last is what `mwjax/assets/tiny` holds (in bfloat16). VAE and backbone were recorded at 17.5
frames a second instead of 11.7, with more turning (`VARIANTS`): less walking between two frames, which the model
hardly learnt.
"""

import ml_collections

from mwjax.worlds.levels import TEXTURED, arenas, freedoom

EARLIER = {
    "fps": 35 / 2,
    "policy_options": (("still", (0.5, 0.5)), ("mouse", (0.25, 0.4, 0.15, 0.2)), ("special", (0.55, 0.15, 0.15, 0.15))),
}
VARIANTS = {  # variant: (starts from, recording)
    "vae": ("new:tiny", EARLIER),
    "backbone": ("runs/tiny_base_vae/model", EARLIER),
    "walk": ("runs/tiny_base_backbone/model", {}),
}


def get_config(variant: str = "walk") -> ml_collections.ConfigDict:
    variant = variant or "walk"
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.out = f"runs/tiny_base_{variant}"
    config.seed = 0
    config.model, recording = VARIANTS[variant]
    config.control = {"kind": "none", "action_dim": 192}
    config.dataset = ""
    # The VAE also sees textured arenas and the Freedoom maps, all but every ninth, which are kept for testing.
    test = set(freedoom()[4::9])
    open_domain = tuple(level for level in freedoom() if level not in test)
    levels = arenas(240, 1000) + arenas(60, 1500, TEXTURED) + open_domain if variant == "vae" else arenas(360, 1000)
    clips = 8 if variant == "vae" else 18
    config.record = {
        "levels": levels,
        "scenes": len(levels),
        "clips": clips,
        "frames": 17,
        "size": (96, 160),
        "seed": 11,
        **recording,
    }
    config.framing = {"frames": 9 if variant == "vae" else 17, "height": 48, "width": 80, "shrink": 2}
    # As Wan2.1's own: the VAE learns single images first, which is far quicker, then clips.
    common = {"optimizer": "muon", "warmup": 50, "weight_decay": 0.0, "clip": 1.0, "b2": 0.99}
    images = {"name": "vae", "images": 8, "steps": 1000, "batch": 6, "lr": 1e-2, "kl_weight": 1e-5, **common}
    vae = {"name": "vae", "steps": 1800, "batch": 6, "lr": 7e-3, "kl_weight": 1e-5, **common}
    base = {"name": "base", "steps": 5000, "batch": 16, "lr": 1e-2 if variant == "walk" else 1.5e-2, **common}
    config.stages = [images, vae] if variant == "vae" else [base]
    config.sampling = {"steps": 30, "shift": 3.0, "guidance": 3.0}
    config.lora_scale = 1.0
    return config
