"""The documents say what is there: commands, their options, configs, config keys, Python, links and paths."""

import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import pathlib
import re
import sys
import tomllib
from typing import NamedTuple
from unittest import mock

import pytest

from mwjax.config import OPTIONAL, load_config
from mwjax.data.clips import ClipConfig
from mwjax.diffusion.sampling import Sampling
from mwjax.parallel.mesh import MeshShape
from mwjax.training.job import KEYS
from mwjax.training.memory import Memory
from mwjax.training.stages import STAGES
from mwjax.training.stages.action import ControlConfig
from mwjax.worlds.recorder import RecordConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("mwjax", "converters", "experiments", "tests", "configs")
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py"))
SECTIONS = {
    "control": ControlConfig,
    "framing": ClipConfig,
    "memory": Memory,
    "mesh": MeshShape,
    "record": RecordConfig,
    "sampling": Sampling,
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.M)
MODULE = re.compile(r"(mwjax|converters)(\.\w+)*")
PLACEHOLDER = re.compile(r"\b(?!README)[A-Z]{2,}|[…*$]")


class Call(NamedTuple):
    """A command as it is written: its module or script, and the words after it."""

    page: str
    what: str
    words: tuple[str, ...]


def text_of(page: str) -> str:
    """A page, or the docstring of a config."""
    text = (ROOT / page).read_text()
    return ast.get_docstring(ast.parse(text)) if page.endswith(".py") else text


def code_of(page: str) -> list[str]:
    """Everything that is code, a line a command."""
    text = text_of(page)
    if page.endswith(".py"):
        return [line.strip() for line in text.splitlines() if line.startswith("    ")]
    blocks = [found[2].replace("\\\n", " ") for found in FENCE.finditer(text)]
    inline = [found[1].replace("\n", " ") for found in INLINE.finditer(FENCE.sub("", text))]
    return [line for block in blocks for line in block.splitlines()] + inline


def calls_of(page: str) -> list[Call]:
    """Every `python -m MODULE …` and `python SCRIPT …`; a module that starts another one counts as two calls."""
    out = []
    for line in code_of(page):
        line = re.sub(r"(^|\s)#.*", "", line)  # comments
        line = re.sub(r"\"[^\"]*\"|'[^']*'", "QUOTED", line)
        line = re.sub(r"\$\([^()]*\)", "PRINTED", line)
        for part in re.split(r"&&|[;|]", line):
            found = re.search(r"\bpython (?:-m (\S+)|(\S+\.py))(.*)", part)
            if not found or PLACEHOLDER.search(found[1] or found[2]):
                continue
            words = found[3].split()
            starts = [i for i, word in enumerate(words) if found[1] == "mwjax.launch" and MODULE.fullmatch(word)]
            stop = starts[0] if starts else len(words)
            script = found[2] and found[2][found[2].index("experiments/") :]  # wherever the reader stands
            out.append(Call(page, found[1] or script, tuple(words[:stop])))
            if starts:
                out.append(Call(page, words[stop], tuple(words[stop + 1 :])))
    return out


def main_of(what: str):
    """The main function of a module or script."""
    if what.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"documented_{pathlib.Path(what).stem}", ROOT / what)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main
    spec = importlib.util.find_spec(what)
    assert spec is not None, f"there is no module {what}"
    return importlib.import_module(f"{what}.__main__" if spec.submodule_search_locations else what).main


@functools.cache
def options_of(what: str, subcommand: str = "") -> set[str]:
    """The options that `--help` prints."""
    words = [what, *filter(None, [subcommand]), "--help"]
    printed = io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as ended,
    ):
        main_of(what)()
    assert not ended.value.code, words
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", printed.getvalue()))


def options_used(call: Call) -> set[str]:
    return {word.partition("=")[0] for word in call.words if word.startswith("--") and word != "--"}


def subcommand_of(call: Call) -> str:
    return call.words[0] if call.what == "converters" and call.words else ""


def is_config_key(option: str) -> bool:
    return option.startswith("--config.")


CALLS = [call for page in PAGES + CONFIGS for call in calls_of(page)]
USED = sorted({call.what for call in CALLS})


def test_the_documents_have_commands():
    assert len(CALLS) > 50
    assert {"mwjax.train", "mwjax.sample", "mwjax.collect", "converters"} <= set(USED)


@pytest.mark.parametrize("what", USED)
def test_commands_and_their_options_exist(what):
    for call in CALLS:
        if call.what == what:
            known = options_of(what, subcommand_of(call))
            odd = {option for option in options_used(call) if not is_config_key(option)} - known
            assert not odd, f"{call.page}: {what} has no {odd}"


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_named_alone_are_of_some_command(page):
    named = {code.split()[0].partition("=")[0] for code in code_of(page) if code.startswith("--")}
    named = {option for option in named if not is_config_key(option)}
    commands = sorted({(call.what, subcommand_of(call)) for call in CALLS if call.page == page})
    commands += sorted({(call.what, subcommand_of(call)) for call in CALLS} - {*commands})
    for command in commands:  # those of the page first
        if named:
            named -= options_of(*command)
    assert not named, f"{page}: {named}"


@pytest.mark.parametrize("page", PAGES + CONFIGS)
def test_configs_and_their_keys_exist(page):
    text = "\n".join(code_of(page))
    for name in re.findall(r"--config[ =]([\w./:]+)", text):
        if not PLACEHOLDER.search(name):
            load_config(name)
    stages = {field.name for stage in STAGES.values() for field in dataclasses.fields(stage)}
    for key in re.findall(r"--config\.([\w.]+)", text):
        section, _, rest = key.partition(".")
        if PLACEHOLDER.search(key):
            continue
        assert section in {*KEYS, *OPTIONAL}, f"{page}: --config.{key}"
        if section == "stages":
            assert re.fullmatch(r"\d+\.\w+", rest), f"{page}: --config.{key}"
            assert rest.partition(".")[2] in stages, f"{page}: --config.{key}"
        elif rest:
            assert rest in {field.name for field in dataclasses.fields(SECTIONS[section])}, f"{page}: --config.{key}"


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_pages_imports_what_is_there(page):
    for found in FENCE.finditer(text_of(page)):
        if found[1] != "python":
            continue
        for node in ast.walk(ast.parse(found[2])):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{page}: {node.module} has no {name.name}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for found in LINK.finditer(FENCE.sub("", text_of(page))):
        target, _, place = (found[1] or found[2]).partition("#")
        if target.startswith(("http:", "https:")):
            continue
        path = ((ROOT / page).parent / target) if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if place:
            titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.M)
            anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert place in anchors, f"{page}: {target}#{place}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_on_the_pages_exist(page):
    for code in code_of(page):
        for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*{{}}-]+", code):
            if not PLACEHOLDER.search(path):
                assert (ROOT / path).exists(), f"{page}: {path}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_pages_are_120_columns_wide(page):
    """Tables of long rows may be wider, but not the README's."""
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if page == "README.md" or not line.startswith("|"):
            assert len(line) <= 120, f"{page}:{number} has {len(line)} columns"


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_extras_exist(page):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"(?:\.|whl)\[(\w+)\]", "\n".join(code_of(page)))
    named += re.findall(r"extra `(\w+)`", text_of(page))
    assert set(named) <= set(known)
