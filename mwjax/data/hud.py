"""Draw the pressed keys and the mouse on frames, so that one can see what should happen."""

import numpy as np
from PIL import Image, ImageDraw

# key: (column, row, width) of its box, in boxes
BOXES = {"w": (1, 0, 1), "a": (0, 1, 1), "s": (1, 1, 1), "d": (2, 1, 1), "shift": (0, 2, 1.5), "ctrl": (1.5, 2, 1.5), "space": (0, 3, 3)}
ORDER = ("w", "s", "a", "d", "space", "shift", "ctrl")


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Frames with every pixel repeated factor × factor times."""
    return frames.repeat(factor, 1).repeat(factor, 2)


def draw_hud(frames: np.ndarray, keyboard: np.ndarray, mouse: np.ndarray) -> np.ndarray:
    """Key boxes at the lower left (lit while pressed), a pointer at the lower right (right = yaw, down = pitch). uint8 in and out."""
    height, width = frames.shape[1:3]
    box = max(height // 14, 8)
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        draw = ImageDraw.Draw(picture, "RGBA")
        for key, (column, row, span) in BOXES.items():
            x, y = 4 + column * box, height - 4 - (4 - row) * box
            lit = keyboard[i, ORDER.index(key)] > 0
            draw.rectangle((x, y, x + span * box - 2, y + box - 2), fill=(255, 200, 0, 230) if lit else (40, 40, 40, 110), outline=(255, 255, 255, 160))
            if box >= 11:
                draw.text((x + 3, y), key, fill=(0, 0, 0, 255) if lit else (255, 255, 255, 200))
        radius = 2 * box
        cx, cy = width - 4 - radius, height - 4 - radius
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=(40, 40, 40, 110), outline=(255, 255, 255, 160))
        pitch, yaw = mouse[i]
        length = np.hypot(pitch, yaw)
        if length > 0:
            reach = radius * min(1.0, 0.3 + length / 6) / length
            draw.line((cx, cy, cx + yaw * reach, cy + pitch * reach), fill=(255, 200, 0, 255), width=max(box // 4, 2))
        out[i] = np.asarray(picture)
    return out
