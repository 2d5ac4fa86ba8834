"""Datasets in the released layout, damaged files, the latent cache and the loader."""

import atexit
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import tempfile
import threading

import numpy as np
import pytest

from mwjax.data import fingerprints, layout, loader, tables
from mwjax.data.actions import KEYS, from_scene, parse_action_list, read_actions
from mwjax.data.actions import main as show_actions
from mwjax.data.captions import recaption
from mwjax.data.clips import ClipConfig, fit, load_clip, read_table
from mwjax.data.files import whole, write_whole
from mwjax.data.latents import ALONE, Encoders, LatentSource, Share, encode_dataset
from mwjax.data.loader import crop, latent_batches, pixel_batches
from mwjax.data.video import WRITERS, read_video, write_video
from mwjax.errors import InputError


def entry(**changes) -> dict:
    return {
        "ws": 0,
        "ad": 0,
        "scs": 0,
        "pitch_delta": 0.0,
        "yaw_delta": 0.0,
        "collision": 0,
        "jump_invalid": 0,
    } | changes


@functools.cache
def drawn_dataset(**options) -> pathlib.Path:
    """One that was made before, to be copied."""
    folder = tempfile.mkdtemp(prefix="mwjax-dataset-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return draw_dataset(pathlib.Path(folder), **options)


def make_dataset(root, **options):
    return pathlib.Path(shutil.copytree(drawn_dataset(**options), root, dirs_exist_ok=True))


def draw_dataset(root, *, scenes: int = 3, frames: int = 20, directory: str = "."):
    rng = np.random.default_rng(0)
    table = []
    for n in range(scenes):
        name = f"scene_{n}"
        video = np.repeat(rng.integers(0, 255, (frames, 3, 4, 3)), 16, 1).repeat(16, 2).astype(np.uint8)
        write_video(layout.video_file(root, name), video, fps=16)
        actions = {str(i): entry(ws=1, yaw_delta=0.2) for i in range(frames)}
        write_whole(layout.metadata_file(root, name), json.dumps({"biome": "plains", "actions": actions}))
        for start in (0, 9):
            table.append((f"{name}.mp4", start, start + 8, f"A scene {n}.", directory))
    tables.write_table(root / layout.TABLES[0], layout.COLUMNS, table)
    return root


def test_scene_actions_follow_the_original_loader():
    actions = {
        "4": entry(ws=1),
        "5": entry(ws=1, ad=2, scs=1, pitch_delta=0.1, yaw_delta=-0.2),
        "6": entry(ws=2, collision=1, yaw_delta=1 / 3),
        "7": entry(scs=1, jump_invalid=1),
    }
    keyboard, mouse = from_scene(actions, 4, 9)
    np.testing.assert_array_equal(keyboard[0], 0)  # the first frame of a clip is empty
    np.testing.assert_array_equal(keyboard[1], [1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_allclose(mouse[1], [1.5, -3.0], rtol=1e-6)
    np.testing.assert_array_equal(keyboard[2], 0)  # a collision clears the walking keys and keeps the mouse
    np.testing.assert_allclose(mouse[2], [0, 5.0], rtol=1e-6)
    np.testing.assert_array_equal(keyboard[3:], 0)  # an invalid jump; a missing entry


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([[8, "1 0 0 0 0 0 0 0 0"], [4, "0 0 0 0 0 0 0 0 0"], ""], "in order"),
        ([[8, "1 0 0"], ""], "nine|9"),
        ([["x", "1 0 0 0 0 0 0 0 0"], ""], "entry 0"),
        ([[8, "1 0 0 0 0 0 0 0 0"], "9"], "between 1 and 8"),
        ([], "action list"),
    ],
)
def test_bad_action_lists(bad, says):
    with pytest.raises(InputError, match=says):
        parse_action_list(bad)


def test_action_list_from_file(tmp_path):
    path = tmp_path / "actions.json"
    path.write_text('[[4, "1 0 0 0 0 0 0 0 2"], ""]')
    keyboard, mouse = read_actions(str(path))
    assert keyboard.shape == (5, 7)
    assert mouse[4, 1] == 2
    with pytest.raises(InputError, match="is missing"):
        read_actions(str(tmp_path / "missing.json"))


def test_every_form_of_actions_gives_the_same_arrays(tmp_path, capsys):
    forms = [
        '[[3, "1 0 0 0 0 0 0 0 0"], [8, "1 0 0 0 0 0 0 0.5 -2"], "2 6"]',
        "w*3, w+pitch:0.5+yaw:-2*5, space@2, space@6",
    ]
    scene = {
        str(i): entry(ws=1, scs=int(i in (2, 6)), pitch_delta=0.5 / 15 * (i > 3), yaw_delta=-2 / 15 * (i > 3))
        for i in range(9)
    }
    (tmp_path / "scene.json").write_text(json.dumps({"actions": scene}))
    (tmp_path / "list.json").write_text(forms[0])
    lines = ["yaw,pitch,w,space"] + [
        f"{-2 * (i > 3)},{0.5 * (i > 3)},{int(i > 0)},{int(i in (2, 6))}" for i in range(9)
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    results = [
        read_actions(form)
        for form in [*forms, *(str(tmp_path / name) for name in ("scene.json", "list.json", "table.csv"))]
    ]
    for keyboard, mouse in results[1:]:
        np.testing.assert_array_equal(keyboard, results[0][0])
        np.testing.assert_allclose(mouse, results[0][1], rtol=1e-6)
    (tmp_path / "broken.json").write_text(json.dumps({"actions": {"1": {"ws": 1}}}))
    with pytest.raises(InputError, match="no scene of the dataset"):
        read_actions(str(tmp_path / "broken.json"))
    show_actions([forms[1]])
    assert "frames    2 to    2  w + space" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("w", "neither WHAT"),
        ("w*0", "neither WHAT"),
        ("q*4", "'q' is none of"),
        ("yaw*4", "'yaw' is none of"),
        ("w*4, space@5", "after the last frame"),
    ],
)
def test_bad_short_forms(text, says):
    with pytest.raises(InputError, match=re.escape(says)):
        read_actions(text)


def test_videos_are_cut_exactly(tmp_path):
    frames = np.full((50, 32, 48, 3), 0, np.uint8) + (np.arange(50, dtype=np.uint8) * 5)[:, None, None, None]
    write_video(tmp_path / "v.mp4", frames, fps=17.5)
    assert not list(tmp_path.glob("*.part"))
    part = read_video(tmp_path / "v.mp4", 23, 40)
    assert part.shape == (17, 32, 48, 3)
    assert np.abs(part.astype(int) - frames[23:40]).max() <= 3
    with pytest.raises(InputError, match="ends after 50"):
        read_video(tmp_path / "v.mp4", 40, 60)


def test_what_fails_leaves_nothing_and_what_was_there(tmp_path):
    """Of a file and of a folder."""
    (tmp_path / "old.txt").write_text("old")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for name in ("old.txt", "new.txt"):
        with pytest.raises(RuntimeError), whole(tmp_path / name) as part:  # noqa: PT012
            part.write_text("half")
            raise RuntimeError
    for name in ("old", "new"):
        with pytest.raises(RuntimeError), whole(tmp_path / name) as part:  # noqa: PT012
            part.mkdir()
            (part / "half.txt").touch()
            raise RuntimeError
    for suffix, writer in WRITERS.items():
        with pytest.raises(RuntimeError), writer(tmp_path / f"video{suffix}", fps=10) as add:  # noqa: PT012
            add(np.zeros((2, 32, 32, 3), np.uint8))
            raise RuntimeError
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old.txt").read_text() == "old"


def test_what_succeeds_replaces_what_was_there(tmp_path):
    write_whole(tmp_path / "a" / "b.txt", "é")
    write_whole(tmp_path / "a" / "b.txt", b"bytes")
    (tmp_path / "a" / "c.part").mkdir()  # a killed process left it
    for name in ("one.txt", "two.txt"):
        with whole(tmp_path / "a" / "c") as part:
            part.mkdir()
            (part / name).touch()
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {"a/b.txt", "a/c/two.txt"}
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"bytes"


def test_a_clip_written_ten_times_is_the_same_file(tmp_path):
    rng = np.random.default_rng(0)
    walls = (
        rng.integers(0, 255, (12, 20, 3)).repeat(8, 0).repeat(8, 1)
    )  # something with edges that moves, as a game does
    frames = np.stack([np.roll(walls, (i, 3 * i), (0, 1)) for i in range(40)]).astype(np.uint8)
    for i in range(10):
        write_video(tmp_path / f"{i}.mp4", frames, fps=35 / 3)
    assert len({(tmp_path / f"{i}.mp4").read_bytes() for i in range(10)}) == 1


@pytest.mark.parametrize("directory", [".", "", "dataset", "elsewhere"])
def test_tables_tolerate_any_dir(tmp_path, directory):
    clips = read_table(make_dataset(tmp_path, scenes=1, directory=directory))
    clip = load_clip(clips[1], height=32, width=48)
    assert clip["video"].shape == (9, 32, 48, 3)
    assert clip["keyboard"][1, 0] == 1
    np.testing.assert_allclose(clip["mouse"][1], [0, 3], rtol=1e-6)


def test_gamefactory_layout(tmp_path):
    root = make_dataset(tmp_path, scenes=1)
    (root / "metadata-detection").rename(root / "metadata")
    scene = json.loads((root / "metadata/scene_0.json").read_text())
    for i, value in enumerate(scene["actions"].values()):
        del value["collision"], value["jump_invalid"]
        value["pos"] = [float(min(i, 5)), 4.0, 0.0]  # walks five frames, then stands against a wall
    (root / "metadata/scene_0.json").write_text(json.dumps(scene))
    table = root / "dataset/video_captions_v0.csv"
    header = "Original video name,Start frame index,End frame index,Prompt,Dir"
    (root / "annotation.csv").write_text("\n".join([header, *table.read_text().splitlines()[1:]]))
    table.unlink()
    keyboard = load_clip(read_table(root)[0], height=32, width=48)["keyboard"]
    np.testing.assert_array_equal(keyboard[:, 0], [0, 1, 1, 1, 1, 1, 0, 0, 0])
    recaption(root, lambda text, **options: [{"generated_text": "Dots."}])
    assert (root / "annotation.csv").read_text().splitlines()[:2] == [header, "scene_0.mp4,0,8,Dots.,."]


def test_mirrored_clips_exchange_left_and_right(tmp_path):
    dataset = make_dataset(tmp_path / "data", scenes=1)
    actions = {str(i): entry(ws=1, ad=1 + i % 2, scs=3, pitch_delta=0.1, yaw_delta=0.2) for i in range(20)}
    (dataset / "metadata-detection" / "scene_0.json").write_text(json.dumps({"actions": actions}))
    clips = read_table(dataset)
    plain, mirrored = (load_clip(dataclasses.replace(clips[0], mirrored=m), height=32, width=48) for m in (False, True))
    np.testing.assert_array_equal(mirrored["video"], plain["video"][:, :, ::-1])
    np.testing.assert_array_equal(mirrored["mouse"], plain["mouse"] * [1, -1])
    for key, other in {
        "w": "w",
        "s": "s",
        "a": "d",
        "d": "a",
        "space": "space",
        "shift": "shift",
        "ctrl": "ctrl",
    }.items():
        np.testing.assert_array_equal(mirrored["keyboard"][:, KEYS.index(key)], plain["keyboard"][:, KEYS.index(other)])
    assert {"a", "d"} <= {KEYS[i] for i in np.flatnonzero(plain["keyboard"].any(0))}
    cache = encode(dataset, tmp_path / "cache", config=dataclasses.replace(CONFIG, mirror=True))
    assert len(LatentSource(cache)) == 2 * len(clips)


def test_fit_shrinks_then_crops():
    frames = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3).astype(np.uint8)
    assert fit(frames, 2, 4, 2).shape == (2, 2, 4, 3)
    with pytest.raises(InputError, match="smaller"):
        fit(frames, 8, 8, 2)


CONFIG = ClipConfig(9, 32, 48)


def encode(root, cache, calls=None, identity="v1", config=CONFIG, image=None, share=ALONE):
    def video(pixels):
        if calls is not None:
            calls.append(len(pixels))
        small = pixels[:, ::4, ::8, ::8, :1]
        return small, small * 0 - 30

    def text(captions):
        return [np.ones((2, 3), np.float32)] * len(captions)

    encoders = Encoders(video, text, image)
    return encode_dataset(
        read_table(root), cache, config=config, identity=identity, encoders=encoders, share=share, batch=2
    )


def test_damaged_clips_are_reported_and_left_out(tmp_path, capsys):
    root = make_dataset(tmp_path / "data")
    (root / "video/scene_0.mp4").write_bytes(b"not a video")
    scene = root / "metadata-detection/scene_1.json"
    actions = json.loads(scene.read_text())["actions"]
    scene.write_text(
        json.dumps({"actions": {k: v for k, v in actions.items() if int(k) < 12}})
    )  # does not match its video
    source = LatentSource(encode(root, tmp_path / "cache"))
    assert len(source) == 3
    told = capsys.readouterr()
    assert "scene_0" in told.out + told.err
    assert "does not match" in told.out + told.err
    index = json.loads((tmp_path / "cache/index.json").read_text())
    assert len(index["left_out"]) == 3


def test_nothing_readable_is_an_error(tmp_path):
    root = make_dataset(tmp_path / "data", scenes=1)
    (root / "video/scene_0.mp4").unlink()
    with pytest.raises(InputError, match="none of the 2 clips"):
        encode(root, tmp_path / "cache")


def test_the_cache_is_continued(tmp_path):
    root, calls = make_dataset(tmp_path / "data"), []
    encode(root, tmp_path / "cache", calls)
    assert sum(calls) == 6
    clip_files(tmp_path / "cache")[3].unlink()
    encode(root, tmp_path / "cache", calls)
    assert len(calls) == 4


def clip_files(cache) -> list:
    return [cache / "clips" / entry["file"] for entry in json.loads((cache / "index.json").read_text())["clips"]]


def contents(cache) -> dict:
    return {p.relative_to(cache): p.read_bytes() for p in cache.rglob("*") if p.is_file() and p.name != "cache.json"}


def relabel(root, scene: int, frame: int, **changes) -> None:
    path = layout.metadata_file(root, f"scene_{scene}")
    content = json.loads(path.read_text())
    content["actions"][str(frame)] |= changes
    path.write_text(json.dumps(content))


def exchange(root) -> None:
    for folder in ("video", "metadata-detection"):
        for a, b in zip(sorted((root / folder).glob("scene_0*")), sorted((root / folder).glob("scene_1*"))):
            whole_of_a = a.read_bytes()
            a.write_bytes(b.read_bytes())
            b.write_bytes(whole_of_a)


def edit(root, change) -> None:
    """The lines of the table below its header."""
    path = root / layout.TABLES[0]
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *change(lines)]) + "\n")


def another_video(root) -> None:
    times = layout.video_file(root, "scene_0").stat()
    frames = read_video(layout.video_file(root, "scene_0"))
    write_video(layout.video_file(root, "scene_0"), 255 - frames, fps=16)
    os.utime(layout.video_file(root, "scene_0"), ns=(times.st_atime_ns, times.st_mtime_ns))


# name: (what is done to a data set of three scenes with two clips each, how many clips are encoded anew)
CHANGES = {
    "nothing": (lambda root: None, 0),
    "one label of one clip": (lambda root: relabel(root, 1, 3, ad=1), 1),
    "a label that is not used": (lambda root: relabel(root, 1, 0, ad=1), 0),
    "a collision of the other clip": (lambda root: relabel(root, 1, 12, collision=1), 1),
    "two scenes exchanged": (exchange, 0),
    "a video of the same time": (another_video, 2),
    "a clip removed": (lambda root: edit(root, lambda lines: lines[1:]), 0),
    "a clip added in front": (lambda root: edit(root, lambda lines: ["scene_0.mp4,4,12,New.,.", *lines]), 1),
    "another order": (lambda root: edit(root, lambda lines: lines[::-1]), 0),
    "other captions": (lambda root: edit(root, lambda lines: [line.replace("A scene", "B") for line in lines]), 0),
    "a clip moved by a frame": (
        lambda root: edit(root, lambda lines: [lines[0].replace(",0,8,", ",1,9,"), *lines[1:]]),
        1,
    ),
    "a scene twice": (lambda root: edit(root, lambda lines: [*lines, *lines]), 0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("settled", [0, fingerprints.SETTLED], ids=["remembered", "hashed"])
def test_the_cache_knows_clips_by_their_content(tmp_path, change, settled, monkeypatch):
    """What changed is encoded anew and nothing else, and the result is that of a cache that is made afresh."""
    monkeypatch.setattr(fingerprints, "SETTLED", settled)
    root, calls = make_dataset(tmp_path / "data"), []
    encode(root, tmp_path / "cache")
    before = contents(tmp_path / "cache")
    how, anew = CHANGES[change]
    how(root)
    encode(root, tmp_path / "cache", calls)
    files = clip_files(tmp_path / "cache")
    assert len(calls) == -(-anew // 2)
    assert len(contents(tmp_path / "cache").keys() - before.keys()) <= anew + 3  # and at most three captions
    encode(root, tmp_path / "fresh")
    assert [p.read_bytes() for p in files] == [p.read_bytes() for p in clip_files(tmp_path / "fresh")]
    indices = [(tmp_path / name / "index.json").read_bytes() for name in ("cache", "fresh")]
    assert indices[0] == indices[1]
    a, b = (LatentSource(tmp_path / name) for name in ("cache", "fresh"))
    for i in range(len(a)):
        for name, array in a[i].items():
            np.testing.assert_array_equal(array, b[i][name])


def test_other_weights_and_sizes_make_their_own_latents(tmp_path, capsys):
    root, calls = make_dataset(tmp_path / "data"), []
    encode(root, tmp_path / "cache", calls)
    for changes in ({"identity": "v2"}, {"config": ClipConfig(5, 32, 48)}, {"config": ClipConfig(9, 16, 24, 2)}):
        calls.clear()
        encode(root, tmp_path / "cache", calls, **changes)
        assert sum(calls) == 6
        assert "have changed" in capsys.readouterr().out
        encode(root, tmp_path / "cache", calls)
        assert sum(calls) == 6
    encode(root, tmp_path / "cache", calls, config=dataclasses.replace(CONFIG, mirror=True))
    assert sum(calls) == 12
    image = lambda first: (np.ones((len(first), 5, 7), np.float32), np.zeros((len(first), 3, 4, 6, 1), np.float32))
    clip = LatentSource(encode(root, tmp_path / "cache", image=image))[0]
    assert clip["image"].shape == (5, 7)
    assert clip["first_frame"].shape == (3, 4, 6, 1)


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\xff" * len(content),
    "a list": lambda content: b"[1]",
    "nested": lambda content: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["cache.json", "index.json", "captions/*", "clips/*", "../.cache/fingerprints-0.json"])
def test_damage_to_the_cache_is_mended_with_a_line(tmp_path, file, damage, capsys):
    root, calls = make_dataset(tmp_path / "data"), []
    encode(root, tmp_path / "cache")
    before = contents(tmp_path / "cache")
    path = next((tmp_path / "cache").glob(file))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    capsys.readouterr()
    encode(root, tmp_path / "cache", calls)
    told = capsys.readouterr()
    assert ("made again" in told.out + told.err) == (file != "index.json")
    assert contents(tmp_path / "cache") == before
    assert sum(calls) == (2 if file == "clips/*" else 0)


def test_a_flipped_bit_of_a_latent_is_found_when_it_is_read(tmp_path):
    root = make_dataset(tmp_path / "data")
    source = LatentSource(encode(root, tmp_path / "cache"))
    before = source[2]
    content = bytearray((path := clip_files(tmp_path / "cache")[2]).read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged and was removed; run the same command again"):
        source[2]
    again = LatentSource(encode(root, tmp_path / "cache"))[2]
    for name, array in before.items():
        np.testing.assert_array_equal(array, again[name])


def test_a_cache_of_the_first_form_is_refused(tmp_path):
    root = make_dataset(tmp_path / "data")
    (tmp_path / "cache/clips").mkdir(parents=True)
    (tmp_path / "cache/clips/000000.safetensors").touch()
    with pytest.raises(InputError, match=r"older version.*delete that folder"):
        encode(root, tmp_path / "cache")


def test_processes_share_the_cache(tmp_path, monkeypatch):
    """Three processes (threads here) make what one makes, each clip once."""
    root, calls = make_dataset(tmp_path / "data"), []
    edit(root, lambda lines: [*lines, lines[0], "scene_9.mp4,0,8,Not there.,."])
    encode(root, tmp_path / "one")
    meeting = threading.Barrier(3)

    def run(process: int) -> None:
        encode(root, tmp_path / "three", calls, share=Share(process, 3, lambda name: meeting.wait(60) and None))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert sum(calls) == 6


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((80, 352, 640), "80 frames"),
        ((81, 0, 640), "framing.height is 0"),
        ((-3, 32, 32), "framing.frames is -3"),
        ((5, 32, 32, 0), "framing.shrink is 0"),
        ((5, 10**400, 32), "framing.height is a number of about"),
    ],
)
def test_clips_that_cannot_be_cut(sizes, says):
    with pytest.raises(InputError, match=says):
        ClipConfig(*sizes)


def batches(source, **options):
    return latent_batches(source, **({"batch": 2, "seed": 3, "text_len": 5} | options))


def test_batches_repeat_and_resume(tmp_path):
    source = LatentSource(encode(make_dataset(tmp_path / "data"), tmp_path / "cache"))
    first = batches(source)
    seen = [next(first) for _ in range(4)]
    state = first.get_state()
    expected = next(first)
    again = batches(source)
    np.testing.assert_array_equal(next(again)["mean"], seen[0]["mean"])
    again.set_state(state)
    resumed = next(again)
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value)
    assert expected["text"].shape == (2, 5, 3)
    assert expected["keyboard"].shape == (2, 9, 7)


def test_pixel_batches_skip_damaged_clips_and_resume(tmp_path, capsys):
    root = make_dataset(tmp_path)
    (root / "video" / "scene_1.mp4").write_bytes(b"damaged")
    config = ClipConfig(5, 32, 32)
    batches = pixel_batches(read_table(root), batch=2, seed=0, config=config)
    ahead = [next(batches)["video"] for _ in range(4)]
    assert all(video.shape == (2, 5, 32, 32, 3) for video in ahead)
    state = batches.get_state()
    later = [next(batches)["video"] for _ in range(3)]
    assert capsys.readouterr().out.count("left out clip") == 2  # each damaged clip once
    again = pixel_batches(read_table(root), batch=2, seed=0, config=config)
    again.set_state(state)
    for a, b in zip(later, again, strict=False):
        np.testing.assert_array_equal(a, b["video"])
    for path in (root / "video").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="none of the 6 clips"):
        next(pixel_batches(read_table(root), batch=2, seed=0, config=config))


def test_shorter_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SHORTEST", 5)
    source = LatentSource(encode(make_dataset(tmp_path / "data"), tmp_path / "cache"))
    batch = next(batches(source, shorter=1.0))
    assert batch["mean"].shape[1] == 2
    assert batch["keyboard"].shape[1] == batch["mouse"].shape[1] == 5


def test_what_is_cut_with_a_clip():
    group = {name: np.zeros((2, 5, 3)) for name in ("mean", "logvar", "first_frame")}
    group |= {name: np.zeros((2, 17, 3)) for name in ("keyboard", "mouse", "text")}
    lengths = {name: array.shape[1] for name, array in crop(group, 3).items()}
    assert lengths == {"mean": 3, "logvar": 3, "first_frame": 3, "keyboard": 9, "mouse": 9, "text": 17}


def test_a_caption_model_sees_frames_and_replaces_captions(tmp_path):
    asked = []

    def model(text, **options):
        asked.append(text[0]["content"])
        return [{"generated_text": " The video\n shows dots. "}]

    root = make_dataset(tmp_path, scenes=1)
    recaption(root, model)
    assert [clip.prompt for clip in read_table(root)] == ["The video shows dots."] * 2
    assert [part["type"] for part in asked[0]] == ["image"] * 8 + ["text"]
