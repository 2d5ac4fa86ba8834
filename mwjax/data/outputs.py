"""Outputs of sampling are tried before any work: the file can be written, its encoder takes the picture, and nothing of
somebody else's is lost."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from mwjax.data.files import check_output, held, reason_of, remove
from mwjax.data.jobs import Job, holds_frames_alone
from mwjax.data.text import read_json
from mwjax.data.video import WRITERS
from mwjax.errors import InputError

LATENTS = ".safetensors"
OWN_KEYS = ("job", "sampling")  # of the JSON beside a video
FASTEST_GIF = 100.0  # frames a second: each lasts a whole hundredth


def form_of(path: pathlib.Path) -> str:
    """The suffix of an output, "" of a folder of frames. Raises InputError for one that cannot be written."""
    form = path.suffix.lower()
    if form not in (*WRITERS, LATENTS) or (not form and path.name.lower() in (*WRITERS, LATENTS)):
        forms = ".mp4, .gif or .safetensors, or have no suffix (a folder of PNG frames)"
        raise InputError(f"--out {path} must end in {forms}")
    return form


def check_outputs(jobs: Iterable[Job], *, size: tuple[int, int], fps: float) -> None:
    """Raises InputError unless all files of all jobs can be written. size: (height, width) of the frames as shown."""
    tried = set()
    for job in jobs:
        for path in job.out:
            check_place(path)
            kind = (path.parent, form_of(path))
            if kind not in tried and kind[1] in WRITERS:
                try_encoder(path, size=size, fps=fps)
            tried.add(kind)
        check_record(job.record)


def check_place(path: pathlib.Path) -> None:
    """Raises InputError unless an output can be written where its name says, and nothing else would be lost."""
    form = form_of(path)
    if form or not path.is_dir() or path.is_symlink() or path.name in ("", ".."):
        check_output(path)
    elif not holds_frames_alone(path):
        raise InputError(f"--out {path} is there and holds other things than frames; choose another folder")
    if not form and path.is_file():
        raise InputError(f"--out {path} is a file; without a suffix, it must be a folder (of PNG frames)")


def check_record(path: pathlib.Path) -> None:
    """Raises InputError if the JSON file beside a video is somebody else's."""
    check_output(path, "--out: the JSON beside the video,")
    if not path.exists():
        return
    try:
        ours = all(key in read_json(path) for key in OWN_KEYS)
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"--out: {path} is there and was not written by mwjax.sample; choose another name")


def try_encoder(path: pathlib.Path, *, size: tuple[int, int], fps: float) -> None:
    """Raises InputError if a file of the suffix of `path` cannot hold pictures of `size` at `fps`: one is written."""
    form = path.suffix.lower()
    height, width = size
    if form == ".gif" and fps > FASTEST_GIF:
        raise InputError(f"--fps {fps:g} is too fast for a gif; it must be at most {FASTEST_GIF:g}")
    trial = path.with_name(f".mwjax-trial-{os.getpid()}{form}")
    try:
        with WRITERS[form](trial, fps=fps) as add:
            add(np.zeros((2, height, width, 3), np.uint8))
    except InputError:
        raise
    except Exception as error:  # whatever an encoder raises
        advice = "choose another --height, --width, --enlarge or --fps"
        kind = form.lstrip(".") or "PNG frames"
        raise InputError(
            f"--out {path}: {kind} of {width}×{height} pixels at {fps:g} frames a second cannot be written "
            f"({reason_of(error)}); {advice}"
        ) from None
    finally:
        remove(trial)


@contextlib.contextmanager
def reserved(jobs: Iterable[Job]) -> Iterator[None]:
    """While this process writes the files of jobs. Raises InputError if another one writes one of them."""
    with contextlib.ExitStack() as locks:
        for job in jobs:
            for path in (*job.out, job.record):
                locks.enter_context(held(path))
        yield
