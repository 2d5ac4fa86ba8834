"""A sampling step."""

import functools
from collections.abc import Iterator

from accelerator_parts.cases import QUICKSTART, sized
from accelerator_parts.measure import SINGLE, compiled, drawn, drawn_weights, row_of, spec, useful_flops
from accelerator_parts.report import Row
from mwjax.diffusion.sampler import denoise, denoise_some, specify, start_sampling
from mwjax.diffusion.sampling import Sampling
from mwjax.models.shapes import world_shapes
from mwjax.models.world_model import input_shapes


def quickstart_sampling(*, tiny: bool, attention: str) -> Iterator[Row]:
    """A step of one video with action guidance, in float32."""
    del attention
    case, config = sized(QUICKSTART, tiny=tiny)
    recipe = Sampling(steps=30, guidance=1.0, action_guidance=5.0)
    compiled_in, numbers = specify(config, recipe)
    counted, _ = specify(config.tuned(attention="plain"), recipe)
    variables = {"params": drawn_weights(world_shapes(config))}
    shapes = {name: spec(1, *shape, dtype=SINGLE) for name, shape in input_shapes(config, case.latents, 0).items()}
    noise, inputs = drawn((spec(1, *case.latents, config.backbone.out_dim, dtype=SINGLE), shapes))
    state, fixed = start_sampling(compiled_in, variables, numbers, noise, inputs)
    program = compiled(denoise_some, compiled_in, variables, numbers, state, fixed, 0, 1)
    flops = useful_flops(functools.partial(denoise, counted), variables, numbers, state, fixed, 0, 1)

    def call():
        nonlocal state
        state = program.call(variables, numbers, state, fixed, 0, 1)
        return state

    what = f"sampling step of the quickstart, {case.size}, with action guidance"
    yield row_of(what, f"mwjax, {config.backbone.attention}", program, call, flops=flops)
