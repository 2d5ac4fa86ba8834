"""How the shipped tiny base was made: VAE, then backbone, on recorded ViZDoom gameplay.

    python -m mwjax.train --config configs/tiny_base.py:vae        # about 50 minutes on two cores
    python -m mwjax.train --config configs/tiny_base.py:backbone   # about 45 minutes; starts from the VAE above

The model folder of the second is what `mwjax/assets/tiny` holds (in bfloat16).
"""

import ml_collections

from mwjax.worlds.levels import TEXTURED, arenas, freedoom


def get_config(variant: str = "backbone") -> ml_collections.ConfigDict:
    variant = variant or "backbone"
    if variant not in ("vae", "backbone"):
        raise ValueError(f"variant {variant!r} is unknown; use vae or backbone")
    config = ml_collections.ConfigDict()
    config.out = f"runs/tiny_base_{variant}"
    config.seed = 0
    config.model = "new:tiny" if variant == "vae" else "runs/tiny_base_vae/model"
    config.control = {"kind": "none", "action_dim": 192}
    config.dataset = ""
    # The VAE also sees textured arenas and the Freedoom maps, all but every ninth, which are kept for testing.
    test = set(freedoom()[4::9])
    open_domain = tuple(level for level in freedoom() if level not in test)
    levels = arenas(240, 1000) + arenas(60, 1500, TEXTURED) + open_domain if variant == "vae" else arenas(360, 1000)
    clips = 8 if variant == "vae" else 18
    config.record = {"levels": levels, "scenes": len(levels), "clips": clips, "frames": 17, "size": (96, 160), "seed": 11}
    config.framing = {"frames": 9 if variant == "vae" else 17, "height": 48, "width": 80, "shrink": 2}
    # As Wan2.1's own: the VAE learns single images first, which is far quicker, then clips.
    common = {"optimizer": "muon", "warmup": 50, "weight_decay": 0.0, "clip": 1.0, "b2": 0.99}
    images = {"name": "vae", "images": 8, "steps": 1000, "batch": 6, "lr": 1e-2, "kl_weight": 1e-5, **common}
    vae = {"name": "vae", "steps": 1800, "batch": 6, "lr": 7e-3, "kl_weight": 1e-5, **common}
    base = {"name": "base", "steps": 5000, "batch": 16, "lr": 1.5e-2, **common}
    config.stages = [images, vae] if variant == "vae" else [base]
    config.sampling = {"steps": 30, "shift": 3.0, "guidance": 3.0}
    config.lora_scale = 1.0
    return config
