"""Lists of levels for recording: arenas by theme and seed, Freedoom maps."""

from mwjax.worlds import arena

PAINTED = ("gallery", "night", "garden")  # walls of plain colours: a few looks that a small model learns in minutes
TEXTURED = tuple(theme for theme in arena.THEMES if theme not in PAINTED)
UNSEEN = 9000  # first seed of the arenas that are kept from training, which uses seeds from 1000


def arenas(count: int, first_seed: int, themes: tuple[str, ...] = PAINTED) -> tuple[str, ...]:
    """`count` different arenas, themes in turn."""
    return tuple(f"arena:{themes[i % len(themes)]}:{first_seed + i}" for i in range(count))


def freedoom() -> tuple[str, ...]:
    """All 68 Freedoom maps."""
    first = [f"freedoom1:E{episode}M{number}" for episode in range(1, 5) for number in range(1, 10)]
    second = [f"freedoom2:MAP{number:02d}" for number in range(1, 33)]
    return (*first, *second)
