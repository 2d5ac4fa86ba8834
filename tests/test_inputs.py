"""Numbers, text, JSON, outputs and locks: what is wrong with them is one line."""

import dataclasses
import json

import pytest

from mwjax.data import text
from mwjax.data.files import check_output, locked, output_folder, whole
from mwjax.errors import InputError
from mwjax.ranges import Checked, Range, check_number, ranged


@dataclasses.dataclass(frozen=True)
class Toy(Checked):
    WHERE = "toy."

    steps: int = ranged(3, least=1, most=10, whole=True)
    scale: float = ranged(1.0, above=0)
    sizes: tuple[int, ...] = ranged((1, 2), least=1, whole=True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 0}, "toy.steps is 0; it must be a whole number from 1 to 10"),
        ({"steps": 2.5}, "toy.steps is 2.5; it must be a whole number from 1 to 10"),
        ({"steps": True}, "toy.steps is True; it must be a whole number from 1 to 10"),
        ({"scale": float("nan")}, "toy.scale is nan; it must be a number above 0"),
        ({"scale": float("inf")}, "toy.scale is inf; it must be a number above 0"),
        ({"scale": "1"}, "toy.scale is '1'; it must be a number above 0"),
        ({"sizes": (1, 0)}, "toy.sizes is 0; it must be a whole number, at least 1"),
    ],
)
def test_numbers_have_ranges(values, says):
    with pytest.raises(InputError) as error:
        Toy(**values)
    assert str(error.value) == says
    assert Toy() == Toy(3, 1.0, (1, 2))


def test_a_single_number():
    assert check_number(0.5, "part", Range(least=0, most=1)) == 0.5
    with pytest.raises(InputError, match="part is 2; it must be a number, at most 1"):
        check_number(2, "part", Range(most=1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe{}", "line 1 is not UTF-8 text"),
        (b'{"a": 1}\n\xe9', "line 2 is not UTF-8 text"),
        (b'{"a": NaN}', "holds NaN, which is no number"),
        (b'{"a": 1', "is not JSON"),
        (b"[1]", "is JSON, but no object"),
        (b"[" * 100_000, "more than 100 brackets within brackets"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_json_that_is_none(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=says):
        text.read_json(tmp_path / "a.json")


def test_text_is_read_with_and_without_a_mark(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.json").write_bytes(mark + json.dumps({"a": '[[[ \\" 世'}).encode())
        assert text.read_json(tmp_path / "a.json") == {"a": '[[[ \\" 世'}
    with pytest.raises(InputError, match=r"--jobs .*none\.json is missing"):
        text.read_json(tmp_path / "none.json", "--jobs")
    with pytest.raises(InputError, match="is a folder, not a file"):
        text.read_text(tmp_path)


def test_outputs_are_tried_before_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name, says in (("file/a.mp4", "cannot write to"), (".", "no name of a file"), ("link", "is a link")):
        with pytest.raises(InputError, match=says):
            check_output(tmp_path / name if name != "." else ".")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path / "folder")
    assert output_folder(tmp_path / "new/deep").is_dir()
    assert not list((tmp_path / "new/deep").iterdir())


def test_one_process_at_a_time_writes_in_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="is being written by process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_appears_whole(tmp_path):
    with whole(tmp_path / "model") as part:
        (part / "inner").mkdir(parents=True)
        (part / "inner/a.txt").write_text("x")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model/inner/a.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
