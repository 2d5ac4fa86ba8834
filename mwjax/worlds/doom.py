"""ViZDoom as a World: the paper's action space (seven keys, two mouse axes) in Freedoom, scenarios and arenas."""

import dataclasses
import pathlib
import re
import struct
import tempfile

import numpy as np

from mwjax.data.actions import Action
from mwjax.errors import InputError
from mwjax.worlds import arena
from mwjax.worlds.world import Observation

TICS = 35  # a second: the game's own clock
OWN_TICS = 3  # of a frame, unless told otherwise
SCREEN = (192, 320)  # what is drawn, less the game's uppermost and lowest four lines
UNITS_PER_METRE = 32
WARM_UP_TICS = 8  # scripts freeze the player for the first few
NEAR = 6  # median of the depth buffer below which a wall fills the view
# Things one cannot stand in: trees, columns, lamps, torches, hanging bodies.
SOLID_THINGS = frozenset([*range(25, 49), *range(53, 64), 70, *range(73, 79), 85, 86, 2028, 2035])
HIDDEN = (
    "hud", "weapon", "crosshair", "decals", "particles", "effects_sprites", "messages", "corpses", "screen_flashes"
)  # fmt: skip
BUTTONS = (
    "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT", "JUMP", "CROUCH", "SPEED",
    "LOOK_UP_DOWN_DELTA", "TURN_LEFT_RIGHT_DELTA",
)  # fmt: skip
VARIABLES = ("POSITION_X", "POSITION_Y", "POSITION_Z", "PITCH", "ANGLE")


@dataclasses.dataclass(frozen=True)
class Level:
    """A level, written `arena:THEME:SEED`, `scenario:NAME[:MAP]`, or `freedoom1:E1M1` / `freedoom2:MAP01`."""

    name: str

    @property
    def parts(self) -> list[str]:
        return self.name.split(":")

    @property
    def kind(self) -> str:
        return self.parts[0]

    @property
    def map(self) -> str:
        if self.kind == "arena":
            return "MAP01"
        if self.kind == "scenario":
            return [*self.parts, "MAP01"][2]
        return self.parts[-1]

    @property
    def biome(self) -> str:
        """The part of the name that stands for a look."""
        return self.parts[1] if self.kind in ("arena", "scenario") else self.name

    @property
    def words(self) -> str:
        """The look in words, for captions."""
        if self.kind == "arena":
            return arena.THEMES[self.biome].words
        if self.kind == "scenario":
            return "the " + self.biome.replace("_", " ") + " level"
        return f"level {self.map} of {self.kind}"

    def source(self) -> pathlib.Path | None:
        """The game's file of this level; None for an arena, which has none. Raises InputError for an unknown level."""
        root = vizdoom_root()
        parts = self.parts
        if self.kind == "arena" and len(parts) == 3 and parts[1] in arena.THEMES and parts[2].isdigit():
            return None
        path = None
        if self.kind == "scenario" and len(parts) in (2, 3):
            path = root / "scenarios" / f"{parts[1]}.wad"
        elif self.kind in ("freedoom1", "freedoom2") and len(parts) == 2:
            path = root / f"{self.kind}.wad"
        if path is None or not path.exists():
            themes = ", ".join(arena.THEMES)
            raise InputError(
                f"level {self.name!r} is unknown; use arena:THEME:SEED (themes: {themes}), scenario:NAME[:MAP], "
                "freedoom1:E1M1 or freedoom2:MAP01"
            )
        return path

    def wad(self, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        """(game file, level file); an arena is written into `folder`."""
        path = self.source()
        if path is None:
            _, theme, seed = self.parts
            path = folder / f"{theme}_{seed}.wad"
            arena.write_wad(path, theme, int(seed))
        game = "freedoom1.wad" if self.kind == "freedoom1" else "freedoom2.wad"
        return vizdoom_root() / game, path


def vizdoom_root() -> pathlib.Path:
    """Folder of the installed game, or an InputError that says how to get it."""
    try:
        import vizdoom
    except ImportError:
        raise InputError(
            'recording needs the game ViZDoom, which is not installed; run: pip install -e ".[worlds]"'
        ) from None
    return pathlib.Path(vizdoom.__file__).parent


def tics_per_frame(fps: float | None) -> int:
    """Tics of the game in a frame. Raises InputError for a rate at which a frame is no whole number of tics."""
    if fps is None:
        return OWN_TICS
    tics = TICS / fps if fps > 0 else 0
    if round(tics) < 1 or abs(tics - round(tics)) > 0.01:
        possible = ", ".join(f"{TICS / n:.4g}" for n in range(1, 5))
        raise InputError(f"fps {fps:g} must be {TICS} divided by a whole number, as the game's tics: {possible} …")
    return round(tics)


def find_lumps(wad: bytes, level: str) -> dict[str, bytes]:
    """Data of the lumps of a level in a WAD file, by name; empty if there is no such level."""
    count, offset = struct.unpack("<ii", wad[4:12])
    lumps = [struct.unpack("<ii8s", wad[offset + 16 * i : offset + 16 * (i + 1)]) for i in range(count)]
    names = [name.rstrip(b"\0").decode("ascii", "replace") for _, _, name in lumps]
    if level not in names:
        return {}
    start = names.index(level)
    level_lumps = slice(start, start + 12)  # a level's lumps follow its name
    return {
        name: wad[where : where + size]
        for name, (where, size, _) in zip(names[level_lumps], lumps[level_lumps], strict=True)
    }


def places(wad: pathlib.Path, level: str) -> list[tuple[float, float]]:
    """Spots of a level where one can stand: the positions of its non-solid things (map units)."""
    lumps = find_lumps(wad.read_bytes(), level)
    if not lumps:
        raise InputError(f"{wad} has no level {level}")
    things = _udmf_things(lumps["TEXTMAP"]) if "TEXTMAP" in lumps else _binary_things(lumps)
    return [(float(x), float(y)) for x, y, kind in things if kind not in SOLID_THINGS and 0 < kind < 9000]


def _udmf_things(text: bytes) -> list[tuple[float, float, int]]:
    """(x, y, kind) of the things of a level in text form."""
    bodies = re.findall(r"thing\b[^{]*\{([^}]*)\}", text.decode("ascii", "replace"))
    fields = [dict(re.findall(r"(\w+)\s*=\s*([-\d.]+)", body)) for body in bodies]
    return [(float(f["x"]), float(f["y"]), int(f["type"])) for f in fields]


def _binary_things(lumps: dict[str, bytes]) -> list[tuple[int, int, int]]:
    """(x, y, kind) of the things of a level in binary form, Doom's or, with scripts, Hexen's."""
    form, x, y, kind = ("<hhhhhhh6x", 1, 2, 5) if "BEHAVIOR" in lumps else ("<hhhhh", 0, 1, 3)
    data = lumps["THINGS"]
    whole = len(data) // struct.calcsize(form) * struct.calcsize(form)
    return [(row[x], row[y], row[kind]) for row in struct.iter_unpack(form, data[:whole])]


class DoomWorld:
    """One level of the game, headless. Monsters, weapon and HUD are off; what remains is moving and looking."""

    def __init__(self, name: str, *, size: tuple[int, int] = (96, 160), fps: float | None = None):
        """size: (height, width) of the frames, 192x320 divided by a whole number. Raises InputError as `check` does."""
        self.check(name, size=size, fps=fps)
        self.level = Level(name)
        self.size = size
        self.tics = tics_per_frame(fps)
        self.fps = TICS / self.tics
        self.words = self.level.words
        self.biome = self.level.biome
        self._folder = tempfile.TemporaryDirectory(prefix="mwjax_doom_", ignore_cleanup_errors=True)
        folder = pathlib.Path(self._folder.name)
        game_file, level_file = self.level.wad(folder)
        self.places = places(level_file, self.level.map)
        self._game = _start_game(self.level, game_file, level_file, folder)

    @staticmethod
    def check(name: str, *, size: tuple[int, int], fps: float | None = None) -> None:
        """Raises InputError if the game is not installed, or for a level, frame size or rate that it has not."""
        level = Level(name)
        path = level.source()
        if path is not None:
            places(path, level.map)
        height, width = size
        if min(size) < 1 or SCREEN[0] % height or SCREEN[0] * width != SCREEN[1] * height:
            raise InputError(
                f"frame size {height}x{width} must be {SCREEN[0]}x{SCREEN[1]} divided by a whole number, such as 96x160"
            )
        tics_per_frame(fps)

    @staticmethod
    def describe(name: str) -> str:
        return Level(name).words

    def reset(self, *, seed: int) -> Observation:
        rng = np.random.default_rng(seed)
        self._game.set_seed(int(rng.integers(2**31)))
        for _ in range(20):  # some places end the level at once
            self._game.new_episode()
            self._game.send_game_command("god")
            if self.places:
                x, y = self.places[rng.integers(len(self.places))]
                self._game.send_game_command(f"warp {x:.0f} {y:.0f}")
            self._game.make_action([0] * 9, WARM_UP_TICS)
            if not self._game.is_episode_finished():
                break
        else:
            raise InputError(f"level {self.level.name} ends as soon as it starts; leave it out")
        self._game.make_action([0] * 8 + [float(rng.uniform(0, 360))], 1)
        self._game.make_action([0] * 9, 1)
        return self._observe()

    def step(self, action: Action) -> tuple[list[Observation], bool]:
        walks = [action.ws == 1, action.ws == 2, action.ad == 1, action.ad == 2]
        others = [action.scs == 1, action.scs == 2, action.scs == 3]
        turns = [-action.pitch / self.tics, action.yaw / self.tics]
        self._game.make_action([*map(int, walks + others), *turns], self.tics)
        if self._game.is_episode_finished():  # and has nothing to show any more
            return [], True
        return [self._observe()], False

    def is_blind(self, observation: Observation) -> bool:
        return float(np.median(observation.depth)) < NEAR

    def _observe(self) -> Observation:
        state = self._game.get_state()
        x, y, z, pitch, angle = state.game_variables
        height, width = self.size
        step = SCREEN[1] // width
        rgb = state.screen_buffer[4:196].reshape(height, step, width, step, 3).mean((1, 3))
        scale = 1 / UNITS_PER_METRE
        return Observation(
            rgb=np.round(rgb).astype(np.uint8),
            depth=state.depth_buffer,
            position=(x * scale, z * scale, y * scale),
            pitch=float(pitch),
            yaw=float(-angle % 360),
        )

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()


def _start_game(level: Level, game_file: pathlib.Path, level_file: pathlib.Path, folder: pathlib.Path):
    """The running game, a vizdoom.DoomGame; its settings file is written into `folder`."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(game_file))
    if level_file != game_file:
        game.set_doom_scenario_path(str(level_file))
    game.set_doom_map(level.map)
    game.set_doom_config_path(str(folder / "vizdoom.ini"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X200)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    for hide in HIDDEN:
        getattr(game, f"set_render_{hide}")(False)
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in BUTTONS])
    game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in VARIABLES])
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.add_game_args("+freelook 1 +sv_allowjump 1 +sv_allowcrouch 1 +sv_cheats 1 -nomonsters")
    try:
        game.init()
    except Exception as error:  # the game's own exceptions share no base class
        raise InputError(f"the game could not start level {level.name}: {error}") from None
    return game
