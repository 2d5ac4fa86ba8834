"""Draw the pressed keys and the mouse on frames, so that one can see what should happen."""

import numpy as np
from PIL import Image, ImageDraw

from mwjax.data.actions import KEYS

# key: (column, row, width) of its box, in boxes
BOXES = {
    "w": (1, 0, 1),
    "a": (0, 1, 1), "s": (1, 1, 1), "d": (2, 1, 1),
    "shift": (0, 2, 1.5), "ctrl": (1.5, 2, 1.5),
    "space": (0, 3, 3),
}  # fmt: skip
LIT = (255, 200, 0)
DARK = (40, 40, 40, 110)
EDGE = (255, 255, 255, 160)
MARGIN = 4  # pixels between the drawing and the edge of the frame


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Frames with every pixel repeated factor × factor times."""
    return frames.repeat(factor, 1).repeat(factor, 2)


def draw_hud(frames: np.ndarray, keyboard: np.ndarray, mouse: np.ndarray) -> np.ndarray:
    """Key boxes at the lower left, lit while pressed; a pointer at the lower right, right = yaw, down = pitch.

    frames: uint8 [f, h, w, 3], in and out. keyboard: [f, 7], in the order of KEYS. mouse: [f, 2], degrees.
    """
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        draw = ImageDraw.Draw(picture, "RGBA")
        box = max(picture.height // 14, 8)
        _draw_keys(draw, picture.height, box, keyboard[i])
        _draw_pointer(draw, picture.size, box, mouse[i])
        out[i] = np.asarray(picture)
    return out


def _draw_keys(draw: ImageDraw.ImageDraw, height: int, box: int, keyboard: np.ndarray) -> None:
    for key, (column, row, span) in BOXES.items():
        x = MARGIN + column * box
        y = height - MARGIN - (4 - row) * box
        lit = keyboard[KEYS.index(key)] > 0
        corners = (x, y, x + span * box - 2, y + box - 2)
        draw.rectangle(corners, fill=(*LIT, 230) if lit else DARK, outline=EDGE)
        if box >= 11:
            draw.text((x + 3, y), key, fill=(0, 0, 0, 255) if lit else (255, 255, 255, 200))


def _draw_pointer(draw: ImageDraw.ImageDraw, size: tuple[int, int], box: int, mouse: np.ndarray) -> None:
    width, height = size
    radius = 2 * box
    x = width - MARGIN - radius
    y = height - MARGIN - radius
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=DARK, outline=EDGE)
    pitch, yaw = mouse
    length = np.hypot(pitch, yaw)
    if length > 0:
        reach = radius * min(1.0, 0.3 + length / 6) / length
        draw.line((x, y, x + yaw * reach, y + pitch * reach), fill=(*LIT, 255), width=max(box // 4, 2))
