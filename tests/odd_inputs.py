"""Odd inputs such as users have: irregular videos, pictures of every kind, tables and scenes with one thing wrong.

All are drawn here, into a folder of the test's own.
"""

import fractions
import json
import pathlib
import zlib
from collections.abc import Sequence

import av
import numpy as np
from PIL import Image

FRAMES = 34
SIZE = (32, 64)  # height, width
COLUMNS = "original video name,start frame index,end frame index,prompt,dir"


def counting_frames(count: int = FRAMES, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Grey frames, each of them brighter by 6 than the one before: what `numbers_of` tells apart."""
    levels = (np.arange(count) * 6 + 20).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy()


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which of `counting_frames` these are."""
    return [round((float(frame.mean()) - 20) / 6) for frame in frames]


def write_odd_video(
    path: pathlib.Path,
    frames: np.ndarray,
    *,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    form: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> pathlib.Path:
    """Frames with time stamps of one's own (in 1/16000 s), and any options of the encoder and of the container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = fractions.Fraction(1, 16000)
    with av.open(str(path), "w", format=form, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=16, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = clock
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts = int(times[i])
                frame.time_base = clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def irregular_videos(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """One clip of `counting_frames` in every way in which it may come."""
    frames = counting_frames()
    steady = np.arange(FRAMES) * 1000
    drift = np.random.default_rng(0).integers(400, 1600, FRAMES)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    open_groups = {"x264-params": "open-gop=1:keyint=8:bframes=3"}
    write = write_odd_video
    return {
        "steady": write(folder / "steady.mp4", frames),
        "a pause": write(folder / "pause.mp4", frames, times=steady + 32000 * (np.arange(FRAMES) >= 12)),
        "jitter": write(folder / "jitter.mp4", frames, times=np.cumsum(drift) - drift[0]),
        "a late start": write(folder / "late.mp4", frames, times=steady + 48000),
        "twice as fast": write(folder / "fast.mp4", frames, times=np.where(steady < 16000, steady, steady // 2 + 8000)),
        "fragmented": write(folder / "fragmented.mp4", frames, container_options=fragments),
        "open groups": write(folder / "open.mp4", frames, options=open_groups),
        "key frames alone": write(folder / "keys.mp4", frames, options={"g": "1"}),
        "one key frame": write(folder / "one_key.mp4", frames, options={"g": "1000"}),
        "matroska named mp4": write(folder / "matroska.mp4", frames, form="matroska"),
        "a transport stream": write(folder / "stream.ts", frames, form="mpegts"),
        "avi": write(folder / "old.avi", frames, codec="mjpeg", form="avi"),
        "capitals": write(folder / "CAPITALS.MP4", frames, form="mp4"),
    }


def sound(path: pathlib.Path) -> pathlib.Path:
    """An mp4 of sound alone."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def colours(height: int = 24, width: int = 40) -> np.ndarray:
    """A picture whose corners differ, uint8 [h, w, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)


def grey_ramp(height: int = 24, width: int = 40) -> np.ndarray:
    """From black to white, in [0, 1]."""
    return np.broadcast_to(np.linspace(0, 1, width), (height, width))


def turned_pictures(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """`colours`, stored turned or mirrored and with the EXIF orientation that turns it back, by orientation."""
    back = Image.Transpose
    stored = {
        1: None, 2: back.FLIP_LEFT_RIGHT, 3: back.ROTATE_180, 4: back.FLIP_TOP_BOTTOM,
        5: back.TRANSPOSE, 6: back.ROTATE_90, 7: back.TRANSVERSE, 8: back.ROTATE_270,
    }  # fmt: skip
    paths = {}
    for orientation, how in stored.items():
        picture = Image.fromarray(colours())
        exif = Image.Exif()
        exif[0x0112] = orientation
        suffix = "png" if orientation % 2 else "webp"
        paths[orientation] = folder / f"turned_{orientation}.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        (picture.transpose(how) if how is not None else picture).save(paths[orientation], exif=exif, **options)
    return paths


def deep_pictures(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """`grey_ramp` with more than eight bits."""
    ramp = grey_ramp()
    kinds = {
        "grey16.png": np.round(ramp * 65535).astype(np.uint16),
        "grey16.tif": np.round(ramp * 65535).astype(np.uint16),
        "whole.tif": np.round(ramp * 65535).astype(np.int32),
        "real.tif": ramp.astype(np.float32),
        "real_over.tif": (ramp * 1.02).astype(np.float32),
        "real_255.tif": (ramp * 255).astype(np.float32),
        "grey16.pgm": np.round(ramp * 65535).astype(np.uint16),
    }
    for name, values in kinds.items():
        if name.endswith(".pgm"):
            head = f"P5 {values.shape[1]} {values.shape[0]} 65535\n".encode()
            (folder / name).write_bytes(head + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(folder / name)
    return {name: folder / name for name in kinds}


def cut_out_pictures(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """White on the left, nothing on the right, where the colour below the transparency is red."""
    height, width = 24, 40
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[:, : width // 2] = 255
    pixels[:, width // 2 :, 0] = 255
    full = Image.fromarray(pixels)
    grey = Image.fromarray(np.dstack([np.full((height, width), 255, np.uint8), pixels[..., 3]]))
    palette = Image.fromarray((np.arange(width) >= width // 2).astype(np.uint8)[None].repeat(height, 0))
    palette = palette.convert("P")
    palette.putpalette([255, 255, 255, 255, 0, 0] + [0] * 762)
    full.save(folder / "rgba.png")
    full.save(folder / "rgba.webp", lossless=True, exact=True)
    full.save(folder / "rgba.tif")
    grey.save(folder / "la.png")
    palette.save(folder / "palette.png", transparency=1)
    palette.save(folder / "palette.gif", transparency=1)
    Image.fromarray(pixels[..., :3]).save(folder / "rgb.png", transparency=(255, 0, 0))
    names = ("rgba.png", "rgba.webp", "rgba.tif", "la.png", "palette.png", "palette.gif", "rgb.png")
    return {name: folder / name for name in names}


def many_pixels(path: pathlib.Path, side: int = 60_000) -> pathlib.Path:
    """A picture that says in its header that it is large, and holds next to nothing."""
    Image.new("1", (8, 8)).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def scene_rows(count: int = FRAMES, **changes) -> dict[str, dict]:
    """Walking forward and turning right; changes: of every frame, None to leave out a field."""
    rows = {}
    for i in range(count):
        row = {"ws": int(i > 0), "ad": 0, "scs": 0, "pitch_delta": 0.0, "yaw_delta": 0.1 * (i > 0)}
        row |= {"pos": [0.1 * i, 0.0, 0.2 * i], "collision": 0, "jump_invalid": 0}
        rows[str(i)] = {name: value for name, value in (row | changes).items() if value is not None}
    return rows


def _one(frame: int = 5, **changes) -> dict[str, dict]:
    """As `scene_rows`, with one frame changed."""
    rows = scene_rows()
    rows[str(frame)] |= changes
    return rows


def bad_scenes() -> dict[str, str]:
    """The text of scenes that must be refused, by what is wrong."""
    rows = scene_rows
    actions = {
        "keys as text": rows(ws="1"),
        "one key as text": _one(ad="2"),
        "keys as lists": rows(scs=[0]),
        "a key that is none": _one(ws=3),
        "a key below none": _one(scs=-1),
        "half a key": _one(ws=0.5),
        "a key that is true": _one(ws=True),
        "mouse as text": _one(yaw_delta="0.1"),
        "mouse a list": _one(pitch_delta=[0.1]),
        "mouse too far": _one(pitch_delta=1e9),
        "mouse too large for a number": _one(yaw_delta=10**400),
        "a key missing": rows(ad=None),
        "mouse missing": rows(yaw_delta=None),
        "no positions": rows(pos=None, collision=None),
        "positions of two": rows(pos=[0, 0], collision=None),
        "positions as text": rows(pos=["0", "0", "0"], collision=None),
        "collision as text": _one(collision="no"),
        "named frames": {f"frame_{i}": row for i, row in rows().items()},
        "negative frames": {f"-{i}": row for i, row in rows().items()},
        "a frame that is ²": rows() | {"²": rows()["1"]},
        "frames twice": rows() | {"05": rows()["5"]},
        "a frame that is none": rows() | {"5": None},
        "a frame that is a list": rows() | {"5": [1]},
    }
    texts = {name: json.dumps({"actions": value}) for name, value in actions.items()}
    texts |= {
        "mouse null": json.dumps({"actions": _one(yaw_delta=0.1)}).replace("0.1,", "null,", 1),
        "mouse no number": json.dumps({"actions": _one(yaw_delta=float("nan"))}),
        "mouse endless": json.dumps({"actions": rows()}).replace("0.1", "1e999", 1),
        "a list": "[1]",
        "actions a list": '{"actions": [1]}',
        "no actions": "{}",
        "cut off": json.dumps({"actions": rows()})[:-9],
        "empty": "",
        "nested": '{"actions": ' + "[" * 100_000,
        "quotes without end": '{"actions": "' + '\\"' * 200_000,
    }
    return texts


def good_scenes() -> dict[str, str]:
    """The text of scenes that mean the same as `scene_rows`."""
    rows = scene_rows()
    forms = {
        "plain": rows,
        "whole numbers as real ones": {i: row | {"ws": float(row["ws"])} for i, row in rows.items()},
        "more fields": {i: row | {"biome": "plains", "delta_pos": None} for i, row in rows.items()},
        "labels as true and false": {i: row | {"collision": False, "jump_invalid": False} for i, row in rows.items()},
        "numbers with zeros": {f"{int(i):06d}": row for i, row in rows.items()},
        "no frame 0": {i: row for i, row in rows.items() if i != "0"},
        "a frame 0 without anything": rows | {"0": {}},
    }
    return {name: json.dumps({"actions": form}) for name, form in forms.items()}


def bad_tables() -> dict[str, tuple[bytes, str]]:
    """The content of captions tables that must be refused, and what is to be said, by what is wrong."""
    good = "scene_0.mp4,0,16,A room.,."
    line = {name: f"{COLUMNS}\n{good}\n{row}\n".encode() for name, row in {
        "a short row": "scene_0.mp4,0,16",
        "a shorter row": "scene_0.mp4",
        "an unquoted comma": "scene_0.mp4,0,16,A room, with glass.,.",
        "no number": "scene_0.mp4,x,16,A room.,.",
        "a superscript": "scene_0.mp4,²,16,A room.,.",
        "half a frame": "scene_0.mp4,0.5,16,A room.,.",
        "a negative frame": "scene_0.mp4,-1,16,A room.,.",
        "a number of many digits": f"scene_0.mp4,0,{'9' * 5000},A room.,.",
        "its end before its start": "scene_0.mp4,9,3,A room.,.",
        "no name": ",0,16,A room.,.",
        "an absolute name": "/etc/scene_0.mp4,0,16,A room.,.",
        "a name above": "../scene_0.mp4,0,16,A room.,.",
        "a name above, deeper": "a/../../scene_0.mp4,0,16,A room.,.",
        "a name above, the other way": "..\\scene_0.mp4,0,16,A room.,.",
        "a drive": "C:\\scene_0.mp4,0,16,A room.,.",
        "a folder above": "scene_0.mp4,0,16,A room.,..",
        "an absolute folder": "scene_0.mp4,0,16,A room.,/tmp",
        "a null": "scene\0.mp4,0,16,A room.,.",
        "a quote without end": 'scene_0.mp4,0,16,"A room.,.',
        "text after a quote": 'scene_0.mp4,0,16,"A" room.,.',
    }.items()}  # fmt: skip
    tables = {name: (content, "line 3") for name, content in line.items()}
    latin = f"{COLUMNS}\n{good}\nscene_0.mp4,0,16,Un café.,.\n".encode("latin-1")
    return tables | {
        "latin-1": (latin, "line 3 is not UTF-8"),
        "utf-16": (f"{COLUMNS}\n{good}\n".encode("utf-16"), "is not UTF-8"),
        "empty": (b"", "is empty"),
        "a header alone": (f"{COLUMNS}\n".encode(), "lists no clips"),
        "a column missing": (COLUMNS.replace("prompt,", "").encode() + b"\nscene_0.mp4,0,16,.\n", "no column 'prompt'"),
        "a column twice": (f"{COLUMNS},Prompt\n{good},b\n".encode(), "twice"),
        "semicolons": (f"{COLUMNS}\n{good}\n".replace(",", ";").encode(), "no column"),
    }


def good_tables() -> dict[str, bytes]:
    """The content of tables that list one clip, "A room.", frames 0 to 16 of scene_0."""
    plain = f"{COLUMNS}\nscene_0.mp4,0,16,A room.,.\n"
    return {
        "plain": plain.encode(),
        "with a mark": plain.encode("utf-8-sig"),
        "lines of another system": plain.replace("\n", "\r\n").encode(),
        "lines of an old system": plain.replace("\n", "\r").encode(),
        "empty lines": plain.replace("\n", "\n\n").encode(),
        "other case and blanks": plain.replace(COLUMNS, COLUMNS.title().replace(",", " , ")).encode(),
        "a column without name": ("," + plain.replace("\ns", "\n0,s")).encode(),
        "another column": plain.replace(",dir", ",dir,more").replace(",.\n", ",.,x\n").encode(),
        "no dir": plain.replace(",dir", "").replace(",.\n", "\n").encode(),
        "a suffix in capitals": plain.replace(".mp4", ".MP4").encode(),
        "no suffix": plain.replace(".mp4", "").encode(),
        "quotes": plain.replace("A room.", '"A room."').encode(),
        "blanks around numbers": plain.replace(",0,16,", ", 0 , 16 ,").encode(),
    }
