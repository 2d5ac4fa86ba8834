"""Captions of recorded clips: from what the game knows, or from a vision-language model (extra `caption`)."""

import pathlib
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from mwjax.data import layout, tables
from mwjax.data.actions import Action
from mwjax.data.clips import read_table
from mwjax.data.video import read_video
from mwjax.errors import InputError

PROMPT = "Describe the scenery and objects in the game video."


def caption(words: str, actions: list[Action]) -> str:
    """One sentence on the place (`words`) and, coarsely, on what is done; directions are left to the action inputs."""
    share = {
        "walking": np.mean([a.ws != 0 for a in actions]),
        "stepping sideways": np.mean([a.ad != 0 for a in actions]),
        "jumping": np.mean([a.scs == 1 for a in actions]),
        "crouching": np.mean([a.scs == 2 for a in actions]),
        "looking around": np.mean([a.pitch != 0 or a.yaw != 0 for a in actions]),
    }
    done = sorted((name for name, part in share.items() if part > 0.4), key=share.get, reverse=True)[:2]
    return f"{words[0].upper()}{words[1:]}, {' and '.join(done) or 'standing still'}."


def describe(frames: np.ndarray, model: Callable, *, count: int = 8) -> str:
    """Describe uint8 frames [f, h, w, 3] with an "image-text-to-text" pipeline of transformers, shown `count` of
    them."""
    from PIL import Image

    picks = np.linspace(0, len(frames) - 1, count).astype(int)
    content = [{"type": "image", "image": Image.fromarray(frames[i])} for i in picks]
    content.append({"type": "text", "text": PROMPT})
    reply = model(text=[{"role": "user", "content": content}], max_new_tokens=160, return_full_text=False)
    return " ".join(reply[0]["generated_text"].split())


def caption_model(name: str) -> Callable:
    """A vision-language model from the Hugging Face hub, or an InputError if PyTorch is not there to run it."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError('a caption model needs PyTorch; run: pip install -e ".[caption]"') from None
    from transformers import pipeline

    return pipeline("image-text-to-text", model=name, trust_remote_code=True)


def recaption(folder: pathlib.Path, model: Callable) -> None:
    """Replace the captions of a recorded dataset by a model's; the table changes as a whole at the end."""
    clips = read_table(folder)
    path = layout.find_table(folder)
    table = tables.read_table(path)
    column = table.find("prompt")
    rows = []
    for row, clip in zip(tqdm(table.rows, desc="captioning", unit="clip"), clips, strict=True):
        said = describe(read_video(clip.video, clip.start, clip.end + 1), model)
        rows.append([*row.fields[:column], said, *row.fields[column + 1 :]])
    tables.write_table(path, table.columns, rows)
