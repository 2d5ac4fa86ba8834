"""Video files: writing clips as their frames come, reading exact frames."""

import contextlib
import fractions
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from mwjax.data.files import whole
from mwjax.data.pictures import read_image as read_image  # commands read pictures and videos alike
from mwjax.errors import InputError

MOST_PIXELS = 2**26  # of a frame: 8192 × 8192


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
    """Frames start … stop − 1 as uint8 [f, h, w, 3], counted as they are decoded, whatever their time stamps.

    Raises InputError if the file is missing, damaged or shorter than asked for.
    """
    with _opened(path) as (container, stream):
        times = _times(container, stream) if start else None
        frames = _from_key_frame(container, stream, times, start, stop) if times else None
    if frames is None:
        with _opened(path) as (container, stream):
            frames = _from_beginning(container, stream, start, stop)
    if not frames or (stop is not None and len(frames) < stop - start):
        last = "the end" if stop is None else stop - 1
        known = start + len(frames) if frames or not start else len(times or []) or "fewer"
        raise InputError(f"{path} ends after {known} frames; frames {start} to {last} were asked for")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise InputError(f"{path} changes the size of its pictures on the way")
    return np.stack(frames)


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[tuple]:
    """The container and its video. What goes wrong while it is open is an InputError."""
    if not os.path.exists(path):
        raise InputError(f"{path} is missing")
    if not os.path.isfile(path):
        raise InputError(f"{path} is a folder or a device, not a video")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InputError(f"{path} holds video of an unknown kind")
            if (stream.width or 0) * (stream.height or 0) > MOST_PIXELS:
                raise InputError(f"{path} has {stream.width}×{stream.height} pixels; at most {MOST_PIXELS} are read")
            yield container, stream
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path} may not be read: no permission") from None
    except (av.FFmpegError, OSError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise InputError(f"{path} is damaged ({reason}); record or download it again") from None


def _times(container, stream) -> dict[int, int] | None:
    """{time stamp: number} of every frame, in the order in which they are shown, without decoding any; None where the
    file does not tell them apart."""
    times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    if None in times or len(set(times)) < len(times):
        return None
    return {time: number for number, time in enumerate(sorted(times))}


def _from_key_frame(container, stream, times: dict[int, int], start: int, stop: int | None) -> list | None:
    """Frames from the key frame before the first one on; None if that is not how the file works."""
    wanted = range(start, len(times) if stop is None else min(stop, len(times)))
    if not wanted:
        return []
    try:
        container.seek(list(times)[start], stream=stream)
    except av.FFmpegError:
        return None
    frames = []
    for frame in container.decode(stream):
        number = times.get(frame.pts)
        if number is None or number > start + len(frames):  # no such packet, or later than what comes next
            return None
        if number == start + len(frames):
            frames.append(_pixels(frame))
        if len(frames) == len(wanted):
            return frames
    return None


def _from_beginning(container, stream, start: int, stop: int | None) -> list:
    frames = []
    for number, frame in enumerate(container.decode(stream)):
        if number == stop:
            break
        if number >= start:
            frames.append(_pixels(frame))
    return frames


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    if frame.width * frame.height > MOST_PIXELS:
        raise InputError(f"a picture of {frame.width}×{frame.height} pixels; at most {MOST_PIXELS} are read")
    return frame.to_ndarray(format="rgb24")


class Header(NamedTuple):
    """What a video's header promises, or where it does not say, what the file holds."""

    frames: int
    height: int
    width: int
    fps: float


def read_header(path: str | pathlib.Path) -> Header | None:
    """None if the file cannot be read."""
    try:
        with _opened(path) as (container, stream):
            height, width, fps = stream.height, stream.width, float(stream.average_rate or 0)
            frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
            return Header(frames, height, width, fps)
    except InputError:
        return None


def frame_count(path: str | pathlib.Path) -> int:
    """Number of frames the file's header promises (0 if it cannot be read)."""
    header = read_header(path)
    return header.frames if header else 0


def find_videos(folder: pathlib.Path) -> list[pathlib.Path]:
    """The videos of a folder by name, their suffix in any case."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() == ".mp4") if folder.is_dir() else []


def find_video(folder: pathlib.Path, name: str) -> pathlib.Path:
    """NAME.mp4 of a folder, its suffix in any case; NAME.mp4 if there is none."""
    exact = folder / f"{name}.mp4"
    others = (path for path in find_videos(folder) if path.stem == name)
    return exact if exact.exists() else next(others, exact)
