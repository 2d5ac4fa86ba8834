"""Captions of recorded clips: from what the game knows, or from a vision-language model (extra `caption`)."""

import numpy as np

from mwjax.worlds.world import Action

PROMPT = "Describe the scenery and objects in the game video."


def caption(words: str, actions: list[Action]) -> str:
    """One sentence on the place (`words`) and, coarsely, on what is done; directions are left to the action inputs."""
    share = {
        "walking": np.mean([a.ws == 1 for a in actions]),
        "backing away": np.mean([a.ws == 2 for a in actions]),
        "stepping sideways": np.mean([a.ad != 0 for a in actions]),
        "jumping": np.mean([a.scs == 1 for a in actions]),
        "crouching": np.mean([a.scs == 2 for a in actions]),
        "looking around": np.mean([a.pitch != 0 or a.yaw != 0 for a in actions]),
    }
    done = sorted((name for name, part in share.items() if part > 0.4), key=share.get, reverse=True)[:2]
    return f"{words[0].upper()}{words[1:]}, {' and '.join(done) or 'standing still'}."


def describe(frames: np.ndarray, *, model: str = "openbmb/MiniCPM-V-2_6", count: int = 8) -> str:
    """Describe uint8 frames [f, h, w, 3] with a vision-language model from the Hugging Face hub (needs the extra `caption`)."""
    from PIL import Image
    from transformers import pipeline

    picks = np.linspace(0, len(frames) - 1, count).astype(int)
    content = [{"type": "image", "image": Image.fromarray(frames[i])} for i in picks] + [{"type": "text", "text": PROMPT}]
    reply = pipeline("image-text-to-text", model=model, trust_remote_code=True)(text=[{"role": "user", "content": content}], max_new_tokens=160, return_full_text=False)
    return " ".join(reply[0]["generated_text"].split())
