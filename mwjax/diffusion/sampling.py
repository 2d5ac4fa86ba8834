"""How to sample: the settings, and the recipe of the released models."""

import dataclasses

from mwjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one sampling.

    guidance: classifier-free; 1 turns it off. action_guidance: how far to push away from what the model would do
    without its action module; the original has none. guidance_every: compute guidance on every n-th step and repeat
    its push between. guidance_skip: part of the steps, at the end, that go without guidance. teacache: threshold
    below which a step reuses the blocks' last change, 0 turns it off; teacache_start: full steps at the start;
    teacache_polynomial: of the model, empty for the published one.
    """

    steps: int = 30
    shift: float = 3.0
    guidance: float = 3.0
    solver: str = "unipc"
    action_guidance: float = 0.0
    guidance_every: int = 1
    guidance_skip: float = 0.0
    teacache: float = 0.0
    teacache_start: int = 5
    teacache_polynomial: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("steps", "shift", "guidance_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} {getattr(self, name)} must be above 0")
        if not 0 <= self.guidance_skip <= 1:
            raise InputError(f"guidance_skip {self.guidance_skip} must be between 0 and 1")
        if self.teacache < 0:
            raise InputError(f"teacache {self.teacache} must be 0 or more")


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


def recipe(own: dict, *, image: bool) -> dict:
    """The released recipe (image: of a model that starts from one), changed by what a model's own settings say."""
    guidance = {"guidance": IMAGE_GUIDANCE} if image else {}
    return RELEASED | guidance | {name: value for name, value in own.items() if name in RELEASED}
