"""Pictures from outside, as they are meant to be seen: turned as their EXIF says, of any depth, nothing transparent."""

import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mwjax.errors import InputError

MOST_PIXELS = 2**27  # of a picture: 134 million
FULL = (1, 255, 65535, 2**32 - 1)  # what white may be in a picture of real or long whole numbers
ORIENTATION = 0x0112  # of EXIF; how to turn what has it
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ABOVE_WHITE = 1.1  # real numbers may be a little more than white


def read_image(path: str | pathlib.Path, height: int, width: int) -> np.ndarray:
    """A picture as uint8 [height, width, 3]: scaled until it covers the frame, then cut to its centre.

    It is turned as its EXIF orientation says; what is transparent is laid on black; of an animation the first frame is
    taken; 16-bit and real numbers are scaled to 8 bits. Raises InputError if it cannot be read.
    """
    if not os.path.exists(path):
        raise InputError(f"image {path} is missing")
    if not os.path.isfile(path):
        raise InputError(f"image {path} is a folder or a device, not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers, and of many pixels, which have a bound here
            with Image.open(path) as picture:
                across, down = picture.size
                if across * down > MOST_PIXELS:
                    raise InputError(f"image {path} has {across}×{down} pixels; at most {MOST_PIXELS} are read")
                picture.load()
                seen = _upright(_as_rgb(picture), picture)
                return np.asarray(ImageOps.fit(seen, (width, height), Image.Resampling.LANCZOS))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"image {path}: {error}") from None
    except PermissionError:
        raise InputError(f"image {path} may not be read: no permission") from None
    except UnidentifiedImageError:
        raise InputError(f"image {path} is no picture of a known format") from None
    except Exception as error:  # Pillow raises many kinds for files that are damaged
        raise InputError(f"image {path} cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _upright(pixels: Image.Image, picture: Image.Image) -> Image.Image:
    """The pixels of a picture, turned as its EXIF says, where that can be read."""
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # the picture itself is whole
        return pixels
    return pixels.transpose(TURNED[orientation]) if orientation in TURNED else pixels


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue, on black."""
    if picture.mode[0] in "IF":  # 16 or 32 bits of grey
        return _scaled(picture).convert("RGB")
    if picture.mode in ("RGBa", "La"):  # colours that are multiplied already: on black they stay as they are
        return Image.merge("RGB", (picture.getchannel(0),) * 3 if picture.mode == "La" else picture.split()[:3])
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return picture.convert("RGB")


def _scaled(picture: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as grey of 8. What is white: 65535 in the formats that say so; otherwise the least of
    1, 255, 65535 … that nothing exceeds."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("some of its values are no numbers")
    most = values.max()
    if picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        white = 65535
    else:
        first = 0 if picture.mode == "F" else 1
        allowed = ABOVE_WHITE if picture.mode == "F" else 1
        white = next((white for white in FULL[first:] if most <= white * allowed), None)
        if white is None or values.min() < -white * (allowed - 1):
            raise InputError(f"its values go from {values.min():g} to {most:g}; white must be 1, 255 or 65535")
    return Image.fromarray(np.round(values.clip(0, white) * (255 / white)).astype(np.uint8))
