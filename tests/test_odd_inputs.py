"""What users really feed it: every odd input gives what it means, or one line that says what is wrong."""

import json
import os
import pathlib
import tempfile

import numpy as np
import odd_inputs
import pytest
from PIL import Image

from mwjax.data.actions import MOST_FRAMES, parse_csv, read_actions
from mwjax.data.clips import load_clip, read_table
from mwjax.data.scenes import read_scene
from mwjax.data.text import depth
from mwjax.data.tokenizer import report_cut
from mwjax.data.video import find_video, find_videos, read_header, read_image, read_video, write_video
from mwjax.errors import InputError
from mwjax.evaluation.labels import read_labels
from mwjax.evaluation.selection import headers_of


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, pathlib.Path]:
    return odd_inputs.irregular_videos(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize("name", ["steady", "a pause", "jitter", "a late start", "twice as fast", "fragmented"])
@pytest.mark.parametrize("more", [(), ("open groups", "key frames alone", "one key frame", "capitals"),
                                  ("matroska named mp4", "a transport stream", "avi")])  # fmt: skip
def test_frames_are_counted_as_they_are_decoded(videos, name, more):
    for kind in more or (name,):
        assert odd_inputs.numbers_of(read_video(videos[kind])) == list(range(odd_inputs.FRAMES)), kind
        for start, stop in ((0, 9), (1, 2), (7, 24), (9, 10), (17, 34), (33, 34)):
            assert odd_inputs.numbers_of(read_video(videos[kind], start, stop)) == list(range(start, stop)), kind
        assert odd_inputs.numbers_of(read_video(videos[kind], 20)) == list(range(20, odd_inputs.FRAMES)), kind
        for start in (0, 20, 50):
            with pytest.raises(InputError, match=f"ends after 34 frames; frames {start} to 59 were"):
                read_video(videos[kind], start, 60)
        assert read_header(videos[kind])[:3] == (odd_inputs.FRAMES, *odd_inputs.SIZE), kind


def test_suffixes_in_any_case(videos, tmp_path):
    for name in ("a.mp4", "b.MP4", "c.Mp4", "d.mp4.part", "e.txt"):
        (tmp_path / name).write_bytes(videos["steady"].read_bytes())
    assert [path.name for path in find_videos(tmp_path)] == ["a.mp4", "b.MP4", "c.Mp4"]
    assert len(headers_of(tmp_path, 9)) == 3
    assert find_video(tmp_path, "b").name == "b.MP4"
    assert find_video(tmp_path, "x").name == "x.mp4"


def test_what_is_no_video(videos, tmp_path):
    whole = videos["steady"].read_bytes()
    contents = {
        "empty.mp4": b"",
        "garbage.mp4": bytes(range(256)) * 40,
        "cut.mp4": whole[: len(whole) // 2],
        "text.mp4": b"version https://git-lfs.github.com/spec/v1\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged.*record or download it again"):
            read_video(tmp_path / name)
        assert read_header(tmp_path / name) is None
    with pytest.raises(InputError, match="holds no video"):
        read_video(odd_inputs.sound(tmp_path / "sound.mp4"))
    with pytest.raises(InputError, match="is missing"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="is a folder or a device"):
        read_video(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="is a folder or a device"):
        read_video(tmp_path / "pipe.mp4")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up its rights for a while")
def test_a_file_without_permission_is_said_so(videos):
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        os.chmod(folder, 0o755)
        without_permission(pathlib.Path(folder), videos["steady"].read_bytes())


def without_permission(folder: pathlib.Path, content: bytes) -> None:
    readers = {"a.mp4": read_video, "a.json": read_scene, "a.png": lambda path: read_image(path, 8, 8)}
    readers |= {"a.csv": lambda path: read_actions(str(path))}
    for name in readers:
        (folder / name).write_bytes(content)
        (folder / name).chmod(0)
    os.seteuid(65534)
    try:
        for name, reader in readers.items():
            with pytest.raises(InputError, match="no permission") as error:
                reader(folder / name)
            assert "delete" not in str(error.value)
            assert "damaged" not in str(error.value)
    finally:
        os.seteuid(0)


def test_pictures_are_upright(tmp_path):
    for orientation, path in odd_inputs.turned_pictures(tmp_path).items():
        np.testing.assert_array_equal(read_image(path, 24, 40), odd_inputs.colours(), err_msg=str(orientation))


def test_deep_pictures_are_scaled(tmp_path):
    expected = np.round(odd_inputs.grey_ramp() * 255)
    for name, path in odd_inputs.deep_pictures(tmp_path).items():
        seen = read_image(path, 24, 40).astype(int)
        assert np.abs(seen - expected[..., None]).max() <= (5 if "over" in name else 1), name


def test_what_is_transparent_is_black(tmp_path):
    for name, path in odd_inputs.cut_out_pictures(tmp_path).items():
        seen = read_image(path, 24, 40)
        assert seen[:, :20].min() == 255, name
        assert seen[:, 20:].max() == 0, name


def test_other_kinds_of_pictures(tmp_path):
    colours = Image.fromarray(odd_inputs.colours())
    colours.convert("CMYK").save(tmp_path / "cmyk.tif")
    colours.convert("LAB").save(tmp_path / "lab.tif")
    colours.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", colours.size)])
    colours.save(tmp_path / "moving.png", save_all=True, append_images=[Image.new("RGB", colours.size)])
    colours.convert("P").save(tmp_path / "palette.png")
    colours.convert("YCbCr").save(tmp_path / "video.jpg", quality=95)
    for path in sorted(tmp_path.iterdir()):
        assert np.abs(read_image(path, 24, 40).astype(int) - odd_inputs.colours()).mean() < 20, path.name
    colours.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png", 24, 40))) == {0, 255}


def test_what_is_no_picture(tmp_path):
    odd_inputs.many_pixels(tmp_path / "many.png")
    odd_inputs.many_pixels(tmp_path / "more.png", 12_000)
    for name in ("many.png", "more.png"):
        with pytest.raises(InputError, match="pixel"):
            read_image(tmp_path / name, 32, 32)
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan.tif: some of its values are no numbers"):
        read_image(tmp_path / "nan.tif", 32, 32)
    whole = next(iter(odd_inputs.turned_pictures(tmp_path).values())).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<svg/>")
    for name in ("cut.png", "empty.png", "text.png"):
        with pytest.raises(InputError, match=r"image .* (cannot be read|is no picture)") as error:
            read_image(tmp_path / name, 32, 32)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is a folder or a device"):
        read_image(tmp_path, 32, 32)


def dataset(root: pathlib.Path, *, table: bytes | None = None, scene: str | None = None) -> pathlib.Path:
    for folder in ("video", "metadata-detection", "dataset"):
        (root / folder).mkdir(parents=True)
    write_video(root / "video/scene_0.mp4", odd_inputs.counting_frames(), fps=16)
    text = odd_inputs.good_scenes()["plain"] if scene is None else scene
    (root / "metadata-detection/scene_0.json").write_text(text)
    (root / "dataset/video_captions_v0.csv").write_bytes(odd_inputs.good_tables()["plain"] if table is None else table)
    return root


@pytest.mark.parametrize("name", odd_inputs.bad_tables())
def test_bad_tables_are_refused_by_line(tmp_path, name):
    content, says = odd_inputs.bad_tables()[name]
    (tmp_path / "annotation.csv").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_table(tmp_path)
    assert str(tmp_path / "annotation.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_good_tables_give_the_same_clip(tmp_path):
    root = dataset(tmp_path)
    (plain,) = read_table(root)
    for name, content in odd_inputs.good_tables().items():
        (root / "dataset/video_captions_v0.csv").write_bytes(content)
        assert read_table(root) == [plain], name
    long = odd_inputs.good_tables()["plain"].replace(b"A room.", b"x" * 1_000_000)
    (root / "dataset/video_captions_v0.csv").write_bytes(long)
    assert len(read_table(root)[0].prompt) == 1_000_000
    (root / "video/scene_0.mp4").rename(root / "video/scene_0.MP4")
    assert load_clip(read_table(root)[0], height=32, width=64)["video"].shape == (17, 32, 64, 3)


@pytest.mark.parametrize("name", odd_inputs.bad_scenes())
def test_bad_scenes_are_refused(tmp_path, name):
    path = tmp_path / "scene.json"
    path.write_text(odd_inputs.bad_scenes()[name])
    for _ in range(2):  # what was read once is remembered, what is wrong with it too
        with pytest.raises(InputError, match=r"scene\.json") as error:
            read_scene(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
    if name != "no positions":
        with pytest.raises(InputError, match=r"scene\.json"):
            read_actions(str(path))
    with pytest.raises(InputError, match=r"scene\.json"):
        read_labels(path, 17, collisions=True, offset=0)


def test_good_scenes_give_the_same_actions(tmp_path):
    expected = read_actions(f"w+yaw:1.5*{odd_inputs.FRAMES - 1}")
    for name, text in odd_inputs.good_scenes().items():
        (tmp_path / "scene.json").write_text(text)
        for got, rows in zip(read_actions(str(tmp_path / "scene.json")), expected, strict=True):
            np.testing.assert_allclose(got, rows, rtol=1e-6, err_msg=name)
        read_labels(tmp_path / "scene.json", 17, collisions=True, offset=0)


def test_a_scene_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "scene.json"
    for frame in ("3", "4"):
        rows = odd_inputs.scene_rows()
        rows[frame]["ad"] = 2
        path.write_text(json.dumps({"actions": rows}))
        assert read_scene(path)["actions"][frame]["ad"] == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('[[4, "1 0 0 0 0 0 0 0 nan"], ""]', "the mouse is 'nan'; it must be a number of degrees from -360 to 360"),
        ('[[4, "1 0 0 0 0 0 0 0 1e39"], ""]', "the mouse is '1e39'"),
        ('[[4, "7 0 0 0 0 0 0 0 0"], ""]', "a key is '7'; it must be 0 or 1"),
        ('[[4, "0.5 0 0 0 0 0 0 0 0"], ""]', "a key is '0.5'"),
        ('[[4.9, "1 0 0 0 0 0 0 0 0"], ""]', "end_frame is 4.9; it must be a whole number"),
        ('[[1e400, "1 0 0 0 0 0 0 0 0"], ""]', "1e400, which is no number"),
        ('[[NaN, "1 0 0 0 0 0 0 0 0"], ""]', "NaN, which is no number"),
        ('[[true, "1 0 0 0 0 0 0 0 0"], ""]', "end_frame is True"),
        ('[[100000, "1 0 0 0 0 0 0 0 0"], ""]', "a number from 1 to 99999"),
        (f'[[{"9" * 400}, "1 0 0 0 0 0 0 0 0"], ""]', "digits; it must be a number from 1 to 99999"),
        ('[[4, "1 0 0 0 0 0 0 0 0", 3], ""]', r"it must be \[end_frame"),
        ('[{"0": 4}, ""]', r"it must be \[end_frame"),
        ('["4 1", ""]', r"it must be \[end_frame"),
        ('[[4, "1 0 0 0 0 0 0 0 0"], "²"]', "space frame '²'"),
        ('[[4, "1 0 0 0 0 0 0 0 0"], "1_0"]', "space frame '1_0'"),
        ("[" * 100_000, "more than 100 brackets"),
        ("w*3000000000", "neither WHAT"),
        ("w*300000000", f"300000001 frames with the first; at most {MOST_FRAMES}"),
        ("w*60000, s*60000", f"at most {MOST_FRAMES}"),
        ("w*²", "neither WHAT"),
        ("w*4\n, s", "neither WHAT"),
        ("yaw:361*4", "the mouse is '361'"),
        ("yaw:200*4, yaw:200@2", "more than 360 degrees"),
        ("yaw:" + "9" * 60 + "*4", "the mouse is"),
        ("w" * 2_000_000, "at most 500000 are read"),
        ("\0.json", "cannot be read"),
        ("x" * 5000 + ".json", "File name too long"),
        ("", "neither WHAT"),
    ],
)
def test_actions_that_are_none(source, says):
    with pytest.raises(InputError, match=says) as error:
        read_actions(source)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 or len(source) > 1000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("w,yaw\n0,0\n0.5,2", "line 3: a key is '0.5'"),
        ("w,yaw\n0,0\n2,2", "line 3: a key is '2'"),
        ("w,yaw\n0,0\n-1,2", "line 3: a key is '-1'"),
        ("w,w\n0,0\n1,0", "column 'w' twice"),
        ("w,yaw\n0,0\n1,1e308", "line 3: the mouse is '1e308'"),
        ("w,yaw\n0,0\n1,inf", "line 3: the mouse is 'inf'"),
        ("w,yaw\n0,0\n1,", "line 3: the mouse is ''"),
        ("w,yaw\n0,0\n1", "line 3 has 1 fields, the header has 2"),
        ("w,q\n0,0", "'q' is none of them"),
        ("w\n1\n1", "must be all zeros"),
        ("w\n", "a row a frame"),
        ("", "is empty"),
        ("w\n" + "0\n" * (MOST_FRAMES + 1), f"more than {MOST_FRAMES} rows"),
    ],
)
def test_tables_of_actions_that_are_none(text, says):
    with pytest.raises(InputError, match=says):
        parse_csv(text)


def test_actions_in_other_forms(tmp_path):
    expected = read_actions("w+yaw:2*4")
    (tmp_path / "spaces.csv").write_bytes(b"\xef\xbb\xbfw, yaw\r\n0, 0\r\n" + b"1, 2\r\n" * 4)
    (tmp_path / "LIST.JSON").write_bytes(b'\xef\xbb\xbf[[4.0, "1 0 0 0 0 0 9 0 2"], ""]')
    forms = (str(tmp_path / "spaces.csv"), str(tmp_path / "LIST.JSON"), [[4, "1.0 0 0 0 0 0 0 0 2e0"], ""])
    for form in forms:
        for got, rows in zip(read_actions(form), expected, strict=True):
            np.testing.assert_array_equal(got, rows)


def test_odd_brackets_are_counted_in_one_pass():
    assert depth('"' + '\\"' * 1_000_000) == 0
    assert depth('"' * 1_000_001 + "[") == 0
    assert depth('{"a[": [1, "]]]"]}' + "[" * 7) == 7


def test_how_much_of_a_prompt_is_cut_is_said(capsys):
    report_cut("byt5", ["short", "x" * 95], 96)
    assert capsys.readouterr() == ("", "")
    report_cut("byt5", ["y" * 120], 96)
    told = capsys.readouterr().err
    assert "121 bytes with the mark of its end; the model reads 96: the last 25 are not read" in told
    assert len(told.splitlines()) == 1
    report_cut("byt5", ["short", "y\n" * 120, "z" * 96], 96)
    assert "warning: 2 of 3 prompts, the longest ('y y" in capsys.readouterr().err
