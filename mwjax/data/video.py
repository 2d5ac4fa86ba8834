"""mp4 files: writing whole clips, reading exact frames."""

import fractions
import os
import pathlib

import av
import numpy as np

from mwjax.errors import InputError


def write_video(path: str | pathlib.Path, frames: np.ndarray, *, fps: float, crf: int = 16) -> None:
    """Write uint8 frames [f, h, w, 3] (even sizes) as H.264 that browsers play; the file appears whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1000))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "g": "16"}  # one thread: the same bytes every time
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_video(path: str | pathlib.Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Frames start … stop − 1 as uint8 [f, h, w, 3]. Raises InputError if the file is damaged or shorter than asked for."""
    frames = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            period = 1 / (stream.average_rate * stream.time_base)  # ticks per frame
            first = stream.start_time or 0
            if start:
                container.seek(first + int(start * period), stream=stream)  # to the key frame before
            for frame in container.decode(stream):
                index = round((frame.pts - first) / period)
                if stop is not None and index >= stop:
                    break
                if index >= start:
                    frames.append(frame.to_ndarray(format="rgb24"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (av.FFmpegError, IndexError, ZeroDivisionError, TypeError) as error:
        raise InputError(f"{path} is damaged ({getattr(error, 'strerror', error)}); delete it and record or download it again") from None
    if not frames or (stop is not None and len(frames) < stop - start):
        raise InputError(f"{path} ends after {start + len(frames)} frames; frames {start} to {'the end' if stop is None else stop - 1} were asked for")
    return np.stack(frames)


def frame_count(path: str | pathlib.Path) -> int:
    """Number of frames the file's header promises (0 if it cannot be read)."""
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames
    except (av.FFmpegError, FileNotFoundError, IndexError):
        return 0


def read_image(path: str | pathlib.Path, height: int, width: int) -> np.ndarray:
    """A picture as uint8 [height, width, 3]: scaled until it covers the frame, then cut to its centre. Raises InputError if unreadable."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS))
    except FileNotFoundError:
        raise InputError(f"image {path} is missing") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"image {path} cannot be read ({error})") from None
