"""ViZDoom as a World: the paper's action space (seven keys, two mouse axes) in Freedoom, scenario and procedural levels."""

import dataclasses
import pathlib
import re
import struct
import tempfile

import numpy as np

from mwjax.errors import InputError
from mwjax.worlds import arena
from mwjax.worlds.world import Action, Observation

UNITS_PER_METRE = 32
WARM_UP_TICS = 8  # scripts freeze the player for the first few
# Things one cannot stand in: trees, columns, lamps, torches, hanging bodies.
SOLID_THINGS = frozenset([*range(25, 49), *range(53, 64), 70, *range(73, 79), 85, 86, 2028, 2035])


@dataclasses.dataclass(frozen=True)
class Level:
    """A level, written `arena:THEME:SEED`, `scenario:NAME[:MAP]`, or `freedoom1:E1M1` / `freedoom2:MAP01`."""

    name: str

    @property
    def kind(self) -> str:
        return self.name.split(":")[0]

    @property
    def map(self) -> str:
        parts = self.name.split(":")
        return {"arena": "MAP01", "scenario": (parts + ["MAP01"])[2]}.get(self.kind, parts[-1])

    @property
    def biome(self) -> str:
        """The part of the name that stands for a look."""
        parts = self.name.split(":")
        return parts[1] if self.kind in ("arena", "scenario") else self.name

    @property
    def words(self) -> str:
        """The look in words, for captions."""
        if self.kind == "arena":
            return arena.THEMES[self.biome].words
        if self.kind == "scenario":
            return "the " + self.biome.replace("_", " ") + " level"
        return f"level {self.map} of {self.kind}"

    def source(self) -> pathlib.Path | None:
        """The game's file of this level; None for a procedural one. Raises InputError for an unknown level."""
        root, parts = vizdoom_root(), self.name.split(":")
        if self.kind == "arena" and len(parts) == 3 and parts[1] in arena.THEMES and parts[2].isdigit():
            return None
        path = None
        if self.kind == "scenario" and len(parts) in (2, 3):
            path = root / "scenarios" / f"{parts[1]}.wad"
        elif self.kind in ("freedoom1", "freedoom2") and len(parts) == 2:
            path = root / f"{self.kind}.wad"
        if path is None or not path.exists():
            themes = ", ".join(arena.THEMES)
            raise InputError(f"level {self.name!r} is unknown; use arena:THEME:SEED (themes: {themes}), scenario:NAME or freedoom2:MAP01")
        return path

    def wad(self, folder: pathlib.Path) -> tuple[str, str]:
        """(game file, level file): procedural levels are written into `folder`."""
        path = self.source()
        if path is None:
            _, theme, seed = self.name.split(":")
            path = folder / f"{theme}_{seed}.wad"
            arena.write_wad(path, theme, int(seed))
        return str(vizdoom_root() / ("freedoom1.wad" if self.kind == "freedoom1" else "freedoom2.wad")), str(path)


def vizdoom_root() -> pathlib.Path:
    """Folder of the installed game, or an InputError that says how to get it."""
    try:
        import vizdoom
    except ImportError:
        raise InputError('recording needs the game ViZDoom, which is not installed; run: pip install -e ".[worlds]"') from None
    return pathlib.Path(vizdoom.__file__).parent


def places(wad: str, level: str) -> list[tuple[float, float]]:
    """Spots of a level where one can stand: the positions of its non-solid things (map units)."""
    data = pathlib.Path(wad).read_bytes()
    count, offset = struct.unpack("<ii", data[4:12])
    lumps = [struct.unpack("<ii8s", data[offset + 16 * i : offset + 16 * (i + 1)]) for i in range(count)]
    names = [lump[2].rstrip(b"\0").decode("ascii", "replace") for lump in lumps]
    if level not in names:
        raise InputError(f"{wad} has no level {level}")
    start = names.index(level)
    after = slice(start + 1, start + 12)  # a level's lumps follow its name
    around = dict(zip(names[after], lumps[after], strict=True))
    if "TEXTMAP" in around:
        where, size, _ = around["TEXTMAP"]
        text = data[where : where + size].decode("ascii", "replace")
        fields = [dict(re.findall(r"(\w+)\s*=\s*([-\d.]+)", body)) for body in re.findall(r"thing\b[^{]*\{([^}]*)\}", text)]
        things = [(float(f["x"]), float(f["y"]), int(f["type"])) for f in fields]
    else:
        where, size, _ = around["THINGS"]
        form, width, pick = ("<hhhhh", 10, (0, 1, 3)) if "BEHAVIOR" not in around else ("<hhhhhhh6x", 20, (1, 2, 5))
        rows = [struct.unpack(form, data[where + i : where + i + width]) for i in range(0, size - width + 1, width)]
        things = [tuple(row[k] for k in pick) for row in rows]
    return [(float(x), float(y)) for x, y, kind in things if kind not in SOLID_THINGS and 0 < kind < 9000]


class DoomWorld:
    """One level of the game, headless. Monsters, weapon and HUD are off; what remains is moving and looking."""

    def __init__(self, level: str, *, size: tuple[int, int] = (96, 160), tics_per_frame: int = 3):
        """size: (height, width) of the frames, at most (192, 320), aspect 3:5. Raises InputError for an unknown level."""
        import vizdoom

        self.level = Level(level)
        self.size, self.tics = size, tics_per_frame
        self._folder = tempfile.TemporaryDirectory(prefix="mwjax_doom_")
        iwad, wad = self.level.wad(pathlib.Path(self._folder.name))
        self.places = places(wad, self.level.map)
        game = vizdoom.DoomGame()
        game.set_doom_game_path(iwad)
        if wad != iwad:
            game.set_doom_scenario_path(wad)
        game.set_doom_map(self.level.map)
        game.set_doom_config_path(str(pathlib.Path(self._folder.name) / "vizdoom.ini"))
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X200)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_depth_buffer_enabled(True)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        for hide in ("hud", "weapon", "crosshair", "decals", "particles", "effects_sprites", "messages", "corpses", "screen_flashes"):
            getattr(game, f"set_render_{hide}")(False)
        button, variable = vizdoom.Button, vizdoom.GameVariable
        game.set_available_buttons([button.MOVE_FORWARD, button.MOVE_BACKWARD, button.MOVE_LEFT, button.MOVE_RIGHT, button.JUMP, button.CROUCH,
                                    button.SPEED, button.LOOK_UP_DOWN_DELTA, button.TURN_LEFT_RIGHT_DELTA])  # fmt: skip
        game.set_available_game_variables([variable.POSITION_X, variable.POSITION_Y, variable.POSITION_Z, variable.PITCH, variable.ANGLE])
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.add_game_args("+freelook 1 +sv_allowjump 1 +sv_allowcrouch 1 +sv_cheats 1 -nomonsters")
        try:
            game.init()
        except Exception as error:  # the game's own exceptions share no base class
            raise InputError(f"the game could not start level {level}: {error}") from None
        self._game = game

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

    def step(self, action: Action) -> tuple[Observation, bool]:
        keys = [action.ws == 1, action.ws == 2, action.ad == 1, action.ad == 2, action.scs == 1, action.scs == 2, action.scs == 3]
        self._game.make_action([*map(int, keys), -action.pitch / self.tics, action.yaw / self.tics], self.tics)
        ended = self._game.is_episode_finished()
        if not ended:
            self._last = self._observe()
        return self._last, ended

    def _observe(self) -> Observation:
        state = self._game.get_state()
        x, y, z, pitch, angle = state.game_variables
        height, width = self.size
        step = 320 // width
        rgb = state.screen_buffer[4:196].reshape(192 // step, step, 320 // step, step, 3).mean((1, 3))
        if rgb.shape[:2] != (height, width):
            raise InputError(f"frame size {height}x{width} must be 192x320 divided by a whole number")
        scale = 1 / UNITS_PER_METRE
        self._last = Observation(np.round(rgb).astype(np.uint8), state.depth_buffer, (x * scale, z * scale, y * scale), float(pitch), float(-angle % 360))
        return self._last

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()
