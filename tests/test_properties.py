"""Whatever a reader is given, it answers within five seconds: with a result or with one InputError of one line.

MWJAX_EXAMPLES=10000 tries that many inputs of each kind.
"""

import copy
import datetime
import json
import os
import pathlib
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator

import hypothesis
import numpy as np
import odd_inputs
import pytest
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from converters.files import open_safetensors
from converters.folder import SETTINGS, defaults, preflight
from mwjax.config import build, load_config
from mwjax.data.actions import MOST_DEGREES, MOST_FRAMES, parse_csv, read_actions
from mwjax.data.clips import ClipConfig, read_table
from mwjax.data.latents import LatentSource, load_tensors, save_tensors
from mwjax.data.scenes import read_scene
from mwjax.data.text import parse_json
from mwjax.data.video import read_header, read_image, read_video
from mwjax.errors import InputError
from mwjax.evaluation.labels import read_labels
from mwjax.sample import read_jobs
from mwjax.training.metrics import Metrics

USUAL = 200
EXAMPLES = int(os.environ.get("MWJAX_EXAMPLES", USUAL))
SECONDS = 5
LONGEST = 6000  # characters of what is said; a name or a value from outside may be in it
MEMORY = 2 * 1024**2  # KiB, which all readers together may take more than before
MODEL = pathlib.Path(__file__).resolve().parent.parent / "mwjax/assets/tiny"
CONFIG = "tiny_t2w_controlnet"

pytestmark = [pytest.mark.exhaustive] if EXAMPLES > USUAL else []

tried = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=datetime.timedelta(seconds=SECONDS),
    database=None,
    derandomize=EXAMPLES == USUAL,  # the usual run is the same every time
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
)


@pytest.fixture(scope="module", autouse=True)
def memory_is_bounded():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.fixture(scope="module")
def folder() -> Iterator[pathlib.Path]:
    """In memory where there is such a place: the disk may be busy."""
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as place:
        yield pathlib.Path(place)


def answer(read, *arguments):
    """What a reader gives, or None where it says in one line what is wrong."""
    try:
        return read(*arguments)
    except InputError as error:
        text = str(error)
        assert text.strip()
        assert len(text.splitlines()) == 1, text
        assert len(text) < LONGEST, text
        return None


ODD_NUMBERS = [0, 1, -1, 2, 7, 0.5, 1.0, 1e308, 10**9, 10**30, 10**400, float("nan"), float("inf"), -float("inf")]
ODD_TEXTS = [
    "",
    " ",
    "0",
    "1",
    "²",
    "1_0",
    "nan",
    "-0",
    "1e999",
    "\0",
    "\n",
    "..",
    "/etc/passwd",
    "a" * 3000,
    "世界",
    "0x1",
]
odd = st.one_of(
    st.sampled_from([None, True, False, [], {}, [[]], [None], {"": None}, {"0": []}]),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)
json_values = st.recursive(odd, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def changed(draw, value):
    """A JSON value with a few of its parts replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 3))):
        node = value
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
                node = node[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"]))
            if how == "replace":
                node[key] = copy.deepcopy(draw(odd))
            elif how == "remove":
                del node[key]
            elif isinstance(node, dict):
                node[draw(st.sampled_from(ODD_TEXTS) | st.text(max_size=8))] = node[key]
                node |= {} if how == "double" else {key: None}
            else:
                node.append(node[key])
            break
    return value


@st.composite
def damaged(draw, content: bytes):
    """Bytes with a few of them cut off, flipped, put in, taken out or repeated."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 2, 4, 16, 300]))
        how = draw(st.sampled_from(["cut", "flip", "flip", "fill", "insert", "remove", "repeat"]))
        if how == "cut":
            del content[place:]
        elif how == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "fill":
            content[place : place + length] = bytes([draw(st.sampled_from([0, 255, 34, 44, 91]))]) * length
        elif how == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        elif how == "remove":
            del content[place : place + length]
        elif how == "repeat":
            content[place:place] = content[place : place + length]
    return bytes(content)


def texts_of(*values):
    """Bytes of JSON files: values that are changed, and whole ones whose bytes are damaged, and noise."""
    whole = [json.dumps(value, indent=1).encode() for value in values]
    of_values = st.sampled_from(values).flatmap(changed).map(dumped)
    return st.one_of(
        of_values, st.sampled_from(whole).flatmap(damaged), json_values.map(dumped), st.binary(max_size=60)
    )


def dumped(value) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def check_actions(actions) -> None:
    keyboard, mouse = actions
    assert len(keyboard) == len(mouse) <= MOST_FRAMES
    assert set(np.unique(keyboard)) <= {0, 1}
    assert np.isfinite(mouse).all()
    assert np.abs(mouse).max(initial=0) <= MOST_DEGREES
    assert not keyboard[0].any()


ACTION_LIST = [[4, "1 0 0 0 0 0 0 0 2"], [8, "0 0 1 0 0 0 0 -1.5 0"], "3 7"]
words = st.sampled_from(
    ["w", "s", "a", "d", "space", "shift", "ctrl", "none", "yaw:3", "pitch:-1.5", "yaw:", "x", "²", ""]
)
held = st.lists(words | st.text(max_size=4), min_size=1, max_size=4).map("+".join)
counts = st.integers(0, 40).map(str) | st.sampled_from(["²", "-1", "1e3", "99999", "100000", "9" * 12, "9" * 5000, ""])
parts = st.tuples(held, st.sampled_from(["*", "*", "@", "", "**"]), counts).map("".join)
short_forms = st.lists(parts, min_size=1, max_size=6).map(", ".join)
fields = st.lists(st.sampled_from(["0", "1", "0.5", "-3", "nan", "1e9", "x", "²"]), min_size=8, max_size=10).map(
    " ".join
)
entries = st.tuples(st.integers(1, 30) | odd, fields | odd).map(list)
action_lists = st.tuples(st.lists(entries, max_size=4), st.text(max_size=6) | odd).map(lambda pair: [*pair[0], pair[1]])


@tried
@hypothesis.given(
    st.one_of(
        short_forms,
        st.text(max_size=200),
        action_lists.map(lambda value: dumped(value).decode("utf-8", "replace")),
        st.just(ACTION_LIST).flatmap(changed).map(lambda value: dumped(value).decode("utf-8", "replace")),
    )
)
def test_actions_as_text(text):
    actions = answer(read_actions, text)
    if actions is not None:
        check_actions(actions)


@pytest.mark.parametrize("word", ["w", "[", "w*1,", "w+", "+", "*", '["', '"\\', "@1", "w@1,", "9", " ", ",", "yaw:1+"])
def test_long_actions(word):
    for times in (5_000, 100_000):
        began = time.process_time()  # the machine may be busy
        answer(read_actions, word * times)
        answer(read_actions, word * times + "w*4")
        answer(parse_csv, word * times)
        answer(parse_json, word * times, "a.json")
        assert time.process_time() - began < SECONDS


@tried
@hypothesis.given(action_lists | st.just(ACTION_LIST).flatmap(changed).filter(lambda value: isinstance(value, list)))
def test_actions_as_lists(value):
    actions = answer(read_actions, value)
    if actions is not None:
        check_actions(actions)


cells = st.sampled_from(["0", "1", "", " 1 ", "0.5", "2", "-3.5", "nan", "1e9", '"1"', '"', "x", "²"])
names = st.lists(st.sampled_from(["w", " s", "a", "d", "space", "pitch", "yaw", "W", "x", "", '"w"']), max_size=4)
grids = st.tuples(names, st.lists(st.lists(cells, max_size=4), max_size=6))
csv_texts = grids.map(lambda grid: "\n".join(",".join(row) for row in (grid[0], *grid[1])))


@tried
@hypothesis.given(csv_texts | st.text(max_size=100))
def test_actions_as_tables(text):
    actions = answer(parse_csv, text)
    if actions is not None:
        check_actions(actions)


SCENE = {"biome": "plains", "actions": odd_inputs.scene_rows(6)}
BARE = {
    "actions": {i: {k: v for k, v in row.items() if k != "collision"} for i, row in odd_inputs.scene_rows(6).items()}
}
BESIDE = {"job": {"prompt": "a room", "actions": "w*5", "seed": 1, "out": ["a.mp4"]}, "model": "tiny"}


@tried
@hypothesis.given(content=texts_of(SCENE, BARE, ACTION_LIST, BESIDE))
def test_scenes_and_labels(folder, content):
    path = folder / "scene.json"
    path.write_bytes(content)
    answer(read_scene, path)
    actions = answer(read_actions, str(path))
    if actions is not None:
        check_actions(actions)
    answer(lambda: read_labels(path, 4, collisions=True, offset=0))
    answer(lambda: read_labels(path, 4, collisions=False, offset=0))


@tried
@hypothesis.given(st.binary(max_size=100) | texts_of(SCENE))
def test_json(content):
    value = answer(parse_json, content.decode("utf-8", "replace"), "a.json")
    assert "Infinity" not in json.dumps(value)
    assert "NaN" not in json.dumps(value)


TABLES = [*odd_inputs.good_tables().values(), *(content for content, _ in odd_inputs.bad_tables().values())]


@tried
@hypothesis.given(
    content=st.sampled_from(TABLES).flatmap(damaged) | st.text(max_size=100).map(str.encode) | st.binary()
)
def test_captions_tables(folder, content):
    (folder / "annotation.csv").write_bytes(content)
    for clip in answer(read_table, folder) or ():
        assert clip.frames >= 1
        assert clip.start >= 0
        for path in (clip.video, clip.metadata):
            assert folder in path.parents
            assert ".." not in path.parts


SETTABLE = [
    *("seed", "framing.frames", "framing.height", "stages.0.steps", "stages.9.lr", "stages.0.name", "out", "mesh.data"),
    *("framing", "stages", "record.size", "record.size.0", "sampling.steps", "control.kind", "model", "x", "x.y", ""),
]
values = (
    json_values.map(repr)
    | st.text(max_size=20)
    | st.sampled_from(["[" * 5000, "-" * 50_000, "9" * 5000, "(1,)", "1j", "{1}"])
)


@tried
@hypothesis.given(st.sampled_from(SETTABLE) | st.text(max_size=12), values)
def test_config_values(name, value):
    config = answer(load_config, CONFIG, [f"--config.{name}={value}"])
    if config is not None and not isinstance(config.get("framing"), int | float | str | bool | None | list | tuple):
        clip = answer(build, ClipConfig, config.framing, "framing")
        assert clip is None or 1 <= clip.frames <= MOST_FRAMES


WEIGHTS = save({"a.weight": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"})
HEADER = json.loads(WEIGHTS[8 : 8 + int.from_bytes(WEIGHTS[:8], "little")])


def with_header(header) -> bytes:
    text = dumped(header)
    return len(text).to_bytes(8, "little") + text + WEIGHTS[-32:]


@tried
@hypothesis.given(
    content=st.just(WEIGHTS).flatmap(damaged) | st.just(HEADER).flatmap(changed).map(with_header) | st.binary()
)
def test_safetensors(folder, content):
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    tensors = answer(open_safetensors, [path])
    for name in tensors or ():
        answer(tensors.__getitem__, name)


@pytest.fixture(scope="module")
def latents(folder) -> bytes:
    save_tensors(folder / "latents.safetensors", {"mean": np.ones((2, 3), np.float32), "mouse": np.zeros((5, 2))})
    return (folder / "latents.safetensors").read_bytes()


@tried
@hypothesis.given(data=st.data())
def test_latents(folder, latents, data):
    path = folder / "latents.safetensors"
    content = data.draw(damaged(latents))
    path.write_bytes(content)
    tensors = answer(load_tensors, path)
    assert tensors is None or tensors.keys() == {"mean", "mouse"}
    assert path.exists() == (tensors is not None)


INDEX = {"clips": [{"file": "a.safetensors", "prompt": "A room."}], "text_identity": "x", "left_out": {}}


@tried
@hypothesis.given(content=texts_of(INDEX))
def test_the_index_of_latents(folder, content):
    (folder / "index.json").write_bytes(content)
    source = answer(LatentSource, folder)
    if source is not None and len(source):
        answer(source.__getitem__, 0)


@pytest.fixture(scope="module")
def pictures(folder) -> list[bytes]:
    (folder / "pictures").mkdir()
    paths = [*odd_inputs.turned_pictures(folder / "pictures").values()]
    paths += odd_inputs.deep_pictures(folder / "pictures").values()
    paths += odd_inputs.cut_out_pictures(folder / "pictures").values()
    for suffix in ("jpg", "bmp", "gif", "ico", "tga", "jp2", "ppm", "dds"):
        paths.append(folder / "pictures" / f"plain.{suffix}")
        Image.fromarray(odd_inputs.colours()).save(paths[-1])
    return [path.read_bytes() for path in paths]


@tried
@hypothesis.given(data=st.data())
def test_pictures(folder, pictures, data):
    path = folder / "picture"
    path.write_bytes(data.draw(st.sampled_from(pictures).flatmap(damaged)))
    seen = answer(read_image, path, 16, 32)
    assert seen is None or (seen.shape == (16, 32, 3) and seen.dtype == np.uint8)


@pytest.fixture(scope="module")
def videos(folder) -> list[bytes]:
    return [path.read_bytes() for path in odd_inputs.irregular_videos(folder / "videos").values()]


@tried
@hypothesis.given(data=st.data())
def test_videos(folder, videos, data):
    path = folder / "video.mp4"
    path.write_bytes(data.draw(st.sampled_from(videos).flatmap(damaged)))
    start, stop = data.draw(st.sampled_from([(0, None), (0, 9), (5, 20), (30, 40)]))
    header = answer(read_header, path)
    assert header is None or header.frames >= 0
    frames = answer(read_video, path, start, stop)
    assert frames is None or stop is None or len(frames) == stop - start


CURVES = b"step,loss,lr\n1,0.5,0.001\n2,0.25,0.001\n3,0.125,0.001\n"


@tried
@hypothesis.given(content=st.just(CURVES).flatmap(damaged) | csv_texts.map(str.encode) | st.binary(max_size=60))
def test_curves(folder, content):
    (folder / "metrics.csv").write_bytes(content)
    metrics = answer(lambda: Metrics(folder, resume_step=2))
    if metrics is not None:
        metrics.add(3, {"loss": 0.5})
        metrics.close()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


JOB = {"prompt": "a room", "negative": "", "image": "", "actions": "w*4", "seed": 3, "out": ["a.mp4", "a.gif"]}
jobs = texts_of(JOB, BESIDE, JOB | {"actions": ACTION_LIST})


@tried
@hypothesis.given(content=jobs | st.lists(jobs, max_size=3).map(b"\n".join))
def test_jobs(folder, content):
    path = folder / "jobs.jsonl"
    path.write_bytes(content)
    for _, row in answer(read_jobs, str(path)) or ():
        assert isinstance(row, dict)


@pytest.fixture(scope="module")
def model(folder):
    shutil.copytree(MODEL, folder / "model")
    return preflight(folder / "model")


SETTINGS_THERE = {"steps": 4, "shift": 5.0, "guidance": 3.0, "solver": "unipc", "height": 96, "width": 160, "fps": 16.0}


@tried
@hypothesis.given(content=texts_of(SETTINGS_THERE))
def test_settings_of_a_model(model, content):
    (model.path / SETTINGS).write_bytes(content)
    answer(defaults, model)
