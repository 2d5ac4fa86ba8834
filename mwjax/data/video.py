"""Video files: writing clips as their frames come, reading exact frames."""

import contextlib
import fractions
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mwjax.data.files import whole
from mwjax.errors import InputError


@contextlib.contextmanager
def mp4_file(path: pathlib.Path, *, fps: float, crf: int = 18) -> Iterator[Callable[[np.ndarray], None]]:
    """H.264 that browsers play; the file appears whole at the end or not at all.

    Gives add(uint8 frames [f, h, w, 3]) of even sizes.
    """
    with whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        # The same bytes every time: one thread, and without x264's macroblock tree, whose results vary from run to run.
        repeatable = {"threads": "1", "x264-params": "mbtree=0"}
        stream.options = {"crf": str(crf), "preset": "veryfast", "g": "16", **repeatable}

        def add(frames: np.ndarray) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))

        yield add
        container.mux(stream.encode())


@contextlib.contextmanager
def gif_file(path: pathlib.Path, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """As mp4_file, an endless gif (its frames last whole hundredths of a second)."""
    pictures: list[Image.Image] = []

    def add(frames: np.ndarray) -> None:
        pictures.extend(Image.fromarray(frame) for frame in frames)

    yield add
    with whole(path) as part:
        pictures[0].save(part, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)


@contextlib.contextmanager
def png_folder(path: pathlib.Path, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """As mp4_file, a folder of frame_0000.png, frame_0001.png …"""
    del fps
    count = 0
    with whole(path) as part:
        part.mkdir()

        def add(frames: np.ndarray) -> None:
            nonlocal count
            for frame in frames:
                Image.fromarray(frame).save(part / f"frame_{count:04d}.png")
                count += 1

        yield add


WRITERS = {".mp4": mp4_file, ".gif": gif_file, "": png_folder}  # by suffix


def write_video(path: str | pathlib.Path, frames: np.ndarray, *, fps: float, crf: int = 18) -> None:
    """Write uint8 frames [f, h, w, 3] as mp4; see mp4_file."""
    with mp4_file(pathlib.Path(path), fps=fps, crf=crf) as add:
        add(frames)


def read_video(path: str | pathlib.Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Frames start … stop − 1 as uint8 [f, h, w, 3].

    Raises InputError if the file is damaged or shorter than asked for.
    """
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
        reason = getattr(error, "strerror", error)
        raise InputError(f"{path} is damaged ({reason}); delete it and record or download it again") from None
    if not frames or (stop is not None and len(frames) < stop - start):
        last = "the end" if stop is None else stop - 1
        raise InputError(f"{path} ends after {start + len(frames)} frames; frames {start} to {last} were asked for")
    return np.stack(frames)


class Header(NamedTuple):
    """What a video's header promises."""

    frames: int
    height: int
    width: int
    fps: float


def read_header(path: str | pathlib.Path) -> Header | None:
    """None if the file cannot be read."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return Header(stream.frames, stream.height, stream.width, float(stream.average_rate or 0))
    except (av.FFmpegError, OSError, IndexError):
        return None


def frame_count(path: str | pathlib.Path) -> int:
    """Number of frames the file's header promises (0 if it cannot be read)."""
    header = read_header(path)
    return header.frames if header else 0


def read_image(path: str | pathlib.Path, height: int, width: int) -> np.ndarray:
    """A picture as uint8 [height, width, 3]: scaled until it covers the frame, then cut to its centre.

    Raises InputError if it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS))
    except FileNotFoundError:
        raise InputError(f"image {path} is missing") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"image {path} cannot be read ({error})") from None
