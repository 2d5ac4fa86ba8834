"""The shape of the house: imports point one way, nothing grows too long, too wide or too many-handed."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted(p for folder in ("mwjax", "converters") for p in (ROOT / folder).rglob("*.py"))

# From the ground up; a module may import from its own floor and those below.
FLOORS = (
    ("errors", "types", "rules", "ranges", "config"),
    ("data", "parallel", "runtime"),
    ("worlds", "models"),
    ("diffusion", "evaluation", "encoding"),
    ("training", "generation"),
    ("envs",),
    ("live",),
    ("converters",),
)
COMMANDS = len(FLOORS)
COMMANDS_ELSEWHERE = (
    "mwjax.data.actions",
    "converters.__main__",
    "mwjax.envs.gym",
)  # they load models by name, or print


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The package directly below mwjax, or converters."""
    first, _, rest = module.partition(".")
    return first if first == "converters" else rest.partition(".")[0]


def floor_of(module: str) -> int:
    floors = [number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms]
    return floors[0] if floors else COMMANDS


def imports_of(path: pathlib.Path) -> list[str]:
    """Modules of ours that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" if node.module == "mwjax" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.partition(".")[0] in ("mwjax", "converters") and name != "mwjax"]


def test_imports_point_one_way():
    steps_up = []
    for path in SOURCES:
        module = module_of(path)
        for imported in imports_of(path):
            if module not in COMMANDS_ELSEWHERE and floor_of(imported) > floor_of(module):
                steps_up.append(f"{module} imports {imported}")
            if floor_of(imported) == COMMANDS and room_of(imported) != room_of(module):
                steps_up.append(f"{module} imports the command {imported}")
    assert not steps_up


def test_no_circle_of_packages():
    edges: dict[str, set[str]] = {}
    for path in SOURCES:
        room = room_of(module_of(path))
        edges.setdefault(room, set()).update(room_of(name) for name in imports_of(path) if room_of(name) != room)
    while leaves := [room for room, below in edges.items() if not below & edges.keys()]:
        for room in leaves:
            del edges[room]
    assert not edges


def functions_of(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# Functions of more than seven parameters, each with its reason.
MANY_PARAMETERS = {
    ("mwjax.models.dit", "__call__"): "what a pass of the backbone takes besides its latents is optional, and named",
    ("mwjax.models.world_model", "__call__"): "hands them on to the backbone",
}


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_is_too_long_or_takes_too_much(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 400
    for function in functions_of(path):
        arguments = function.args
        count = sum(map(len, (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)))
        count -= bool(arguments.args) and arguments.args[0].arg in ("self", "cls")
        assert function.end_lineno - function.lineno < 60, function.name
        assert count <= 7 or (module_of(path), function.name) in MANY_PARAMETERS, function.name
        if function.name == "main":
            assert function.end_lineno - function.lineno < 40


def test_few_lines_are_left_unformatted():
    skipped = [p for p in SOURCES if "fmt: skip" in p.read_text()]
    assert sum(p.read_text().count("fmt: skip") for p in skipped) <= 15


def test_the_package_imports_no_torch_and_is_light():
    heavy = ("jax", "flax", "torch", "numpy", "transformers")
    code = f"import sys, mwjax; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    assert not [
        p
        for p in SOURCES
        if "import torch" in p.read_text()
        and p.parts[-3:-1] != ("converters",)
        and "mwjax/" in str(p)
        and p.name != "captions.py"
    ]


def test_the_wheel_carries_every_package_and_the_configs():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {module_of(path.parent / "x.py").removesuffix(".x") for path in SOURCES}
    assert set(listed["packages"]) == there | {"mwjax.configs"}
    assert listed["package-dir"] == {"mwjax.configs": "configs"}
