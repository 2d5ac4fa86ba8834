"""How to sample: the settings, and the recipe of the released models."""

import dataclasses
import sys

from mwjax.diffusion.flow import TRAIN_STEPS
from mwjax.diffusion.solvers import SOLVERS
from mwjax.errors import InputError
from mwjax.ranges import FPS, SIDE, Checked, check_number, ranged, shown

STRONGEST = 1000.0  # of guidance, either way


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Checked):
    """Settings of one sampling. Raises InputError for a number out of its range, or a solver that is unknown.

    guidance: classifier-free; 1 turns it off. action_guidance: how far to push away from what the model would do
    without its action module; the original has none. guidance_every: compute guidance on every n-th step and repeat
    its push between. guidance_skip: part of the steps, at the end, that go without guidance. teacache: threshold
    below which a step reuses the blocks' last change, 0 turns it off; teacache_start: full steps at the start;
    teacache_polynomial: of the model, empty for the published one.
    """

    steps: int = ranged(30, least=1, most=TRAIN_STEPS, whole=True)
    shift: float = ranged(3.0, least=0.01, most=100)
    guidance: float = ranged(3.0, least=-STRONGEST, most=STRONGEST)
    solver: str = "unipc"
    action_guidance: float = ranged(0.0, least=-STRONGEST, most=STRONGEST)
    guidance_every: int = ranged(1, least=1, most=TRAIN_STEPS, whole=True)
    guidance_skip: float = ranged(0.0, least=0, most=1)
    teacache: float = ranged(0.0, least=0, most=1e6)
    teacache_start: int = ranged(5, least=0, most=TRAIN_STEPS, whole=True)
    teacache_polynomial: tuple[float, ...] = ranged((), least=-1e30, most=1e30)

    def __post_init__(self):
        super().__post_init__()
        if self.solver not in SOLVERS:
            raise InputError(f"solver {self.solver!r} is unknown; use {', '.join(SOLVERS)}")


# Wan2.1's own negative prompt.
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
RELEASED = {
    "steps": 30,
    "shift": 3.0,
    "guidance": 3.0,
    "action_guidance": 0.0,
    "height": 352,
    "width": 640,
    "fps": 16.0,
    "negative": NEGATIVE,
}
IMAGE_GUIDANCE = 6.0


OTHERS = {"height": SIDE, "width": SIDE, "fps": FPS}  # numbers of RELEASED that are no part of a Sampling


def recipe(own: dict, *, image: bool, where: str = "sampling.json") -> dict:
    """The released recipe (image: of a model that starts from one), changed by what a model's own settings say.

    Keys that are not known are named on stderr and left out. Raises InputError for a wrong value; where: names the file
    in both.
    """
    ranges = {field.name: field.metadata["range"] for field in dataclasses.fields(Sampling) if field.metadata}
    for name, value in own.items():
        if name not in RELEASED:
            print(f"{where}: {shown(name)} is unknown and left out; known are {', '.join(RELEASED)}", file=sys.stderr)
        elif name == "negative":
            if not isinstance(value, str):
                raise InputError(f"{where}: negative is {shown(value)}; it must be text")
        else:
            check_number(value, f"{where}: {name}", (ranges | OTHERS)[name])
    guidance = {"guidance": IMAGE_GUIDANCE} if image else {}
    return RELEASED | guidance | {name: value for name, value in own.items() if name in RELEASED}
