"""Procedural Doom levels: walled arenas with pillars, one look (theme) and one layout per seed.

A level is a UDMF text lump in a WAD file; the game builds its own nodes. Unlimited layouts in a handful of looks give a
small model something it can learn in minutes and leave any number of unseen levels to test it on.
"""

import dataclasses
import pathlib
import struct

import numpy as np

CELL = 128  # map units; 32 units are about one metre
HEIGHT = 160
SKY = "F_SKY1"


@dataclasses.dataclass(frozen=True)
class Theme:
    """A look: what the walls, floor and ceiling are made of, and the words for it."""

    words: str
    walls: tuple[str, ...]
    floor: str
    ceiling: str
    light: int
    decorations: tuple[int, ...]  # Doom thing numbers, each walked around


THEMES = {
    "gallery": Theme(
        "a bright gallery with walls of many colours",
        ("PRED", "PBLUE", "PWHITE", "PORAN"), "FLAT1", "CEIL5_1", 192, (48,)),
    "night": Theme(
        "a dark blue hall with coloured walls",
        ("PRED", "PGREEN", "PORAN"), "FLAT14", "CEIL4_1", 168, (2028,)),
    "garden": Theme(
        "a walled garden under the open sky",
        ("PGREEN", "PORAN", "PWHITE"), "GRASS1", SKY, 192, (43,)),
    "tech": Theme(
        "a tech base with metal walls",
        ("STARTAN2", "COMPTALL", "STARG3"), "FLOOR4_8", "CEIL3_5", 208, (48, 2028)),
    "stone": Theme(
        "a stone maze with a grass floor",
        ("STONE2", "SHAWN2", "GSTONE1"), "GRASS1", SKY, 208, (30, 32)),
    "marble": Theme(
        "a green marble temple with a red floor",
        ("MARBLE1", "MARBFACE", "METAL1"), "FLOOR1_6", "FLAT5_4", 216, (36, 31)),
    "hell": Theme(
        "a burning hall of red rock",
        ("FIREBLU1", "REDWALL", "STARTAN2"), "RROCK03", "FLAT5_3", 216, (46, 41)),
    "brick": Theme(
        "a brick courtyard with a wooden floor",
        ("BRICK7", "SHAWN2", "BRICK10"), "FLAT5_2", SKY, 224, (43, 54)),
    "ice": Theme(
        "a blue and white palace",
        ("COMPBLUE", "SHAWN2", "SILVER1"), "FLAT14", "CEIL3_5", 232, (47, 2028)),
}  # fmt: skip
START = 1  # Doom thing numbers: where the player starts,
LANDING = 14  # and where a teleport ends, an invisible mark for a place to start
# Sides of a cell, by (row, column) of the neighbour: both ends of the wall towards it, (x, y) in cells. The front of a
# Doom wall is on the right of its direction, so each wall runs with its open cell on the right.
SIDES = {(-1, 0): ((1, 0), (0, 0)), (1, 0): ((0, 1), (1, 1)), (0, -1): ((0, 0), (0, 1)), (0, 1): ((1, 1), (1, 0))}


def layout(rng: np.random.Generator, size: int) -> np.ndarray:
    """Open cells of a level, bool [size, size]: an open field with straight pieces of wall, all of it connected."""
    open_ = np.zeros((size, size), bool)
    open_[1:-1, 1:-1] = True
    for _ in range(2 * size // 3):
        row, column = rng.integers(1, size - 1, 2)
        length = int(rng.integers(1, 4))
        trial = open_.copy()
        if rng.random() < 0.5:
            trial[row, column : min(column + length, size - 1)] = False
        else:
            trial[row : min(row + length, size - 1), column] = False
        if _connected(trial):
            open_ = trial
    return open_


def _connected(open_: np.ndarray) -> bool:
    cells = {tuple(c) for c in np.argwhere(open_)}
    if not cells:
        return False
    frontier = [next(iter(cells))]
    cells.discard(frontier[0])
    while frontier:
        row, column = frontier.pop()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell in cells:
                cells.discard(cell)
                frontier.append(cell)
    return not cells


def udmf(theme: Theme, seed: int, size: int = 12) -> str:
    """Text of the level: one sector, a one-sided wall wherever an open cell meets a closed one."""
    rng = np.random.default_rng(seed)
    open_ = layout(rng, size)
    looks = rng.integers(len(theme.walls), size=(size, size))
    height = 2 * HEIGHT if theme.ceiling == SKY else HEIGHT
    sector = (
        f'sector {{ heightfloor = 0; heightceiling = {height}; texturefloor = "{theme.floor}"; '
        f'textureceiling = "{theme.ceiling}"; lightlevel = {theme.light}; }}'
    )
    walls = _walls(open_, looks, theme.walls)
    things = _things(rng, rng.permutation(np.argwhere(open_)), theme.decorations, count=size // 2)
    return "\n".join(['namespace = "zdoom";', *walls, sector, *things, ""])


def _walls(open_: np.ndarray, looks: np.ndarray, textures: tuple[str, ...]) -> list[str]:
    """Vertices, lines and their sides; looks: number of the texture of every cell's walls."""
    vertices: dict[tuple[int, int], int] = {}
    lines = []
    sides = []
    for row, column in np.argwhere(open_):
        for (dy, dx), ends in SIDES.items():
            if open_[row + dy, column + dx]:
                continue
            points = [((column + x) * CELL, (row + y) * CELL) for x, y in ends]
            start, end = (vertices.setdefault(point, len(vertices)) for point in points)
            lines.append(f"linedef {{ v1 = {start}; v2 = {end}; sidefront = {len(sides)}; blocking = true; }}")
            texture = textures[looks[row + dy, column + dx]]
            sides.append(f'sidedef {{ sector = 0; texturemiddle = "{texture}"; }}')
    return [*(f"vertex {{ x = {x}; y = {y}; }}" for x, y in vertices), *lines, *sides]


def _things(rng: np.random.Generator, cells: np.ndarray, decorations: tuple[int, ...], *, count: int) -> list[str]:
    """The player in the first cell, `count` decorations, and marks for places to start in all others."""
    first, *others = cells.tolist()
    things = [_thing(START, *first)]
    for cell in others[:count]:
        things.append(_thing(int(rng.choice(decorations)), *cell, spread=rng.uniform(-40, 40, 2)))
    return things + [_thing(LANDING, *cell) for cell in others[count:]]


def _thing(kind: int, row: int, column: int, spread=(0, 0)) -> str:
    x = (column + 0.5) * CELL + spread[0]
    y = (row + 0.5) * CELL + spread[1]
    skills = " ".join(f"skill{i} = true;" for i in range(1, 6))
    return f"thing {{ x = {x:.1f}; y = {y:.1f}; angle = 0; type = {kind}; {skills} single = true; }}"


def write_wad(path: str | pathlib.Path, theme: str, seed: int) -> None:
    """Write level MAP01 of `theme` (a key of THEMES) and `seed` as a WAD file."""
    lumps = [(b"MAP01", b""), (b"TEXTMAP", udmf(THEMES[theme], seed).encode()), (b"ENDMAP", b"")]
    body = b""
    directory = b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name)
        body += data
    header = struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body))
    pathlib.Path(path).write_bytes(header + body + directory)
