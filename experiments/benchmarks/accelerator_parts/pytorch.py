"""The parts of the accelerator benchmark that run PyTorch, to compare with. See accelerator.py."""

import statistics
import time
from collections.abc import Callable, Iterator

import jax
import torch

from accelerator_parts.attention import attention_passes, attention_shapes
from accelerator_parts.cases import CASES, sized
from accelerator_parts.measure import CALLS, PATIENCE, spec, useful_flops
from accelerator_parts.report import NotRun, Row
from accelerator_parts.velocity import velocity_of, velocity_shapes

jax.config.update("jax_platforms", "cpu")  # it only counts here: the device's memory is torch's


def where(*, tiny: bool) -> str:
    """The device. Raises NotRun if there is none, unless sizes are tiny."""
    if torch.cuda.is_available():
        return "cuda"
    if tiny:
        return "cpu"
    raise NotRun("torch finds no GPU")


def timed(call: Callable[[], object], place: str) -> float:
    """Median seconds of a few calls, after two that warm up."""

    def once() -> float:
        began = time.perf_counter()
        call()
        if place == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds = []
    once()
    once()
    while len(seconds) < 3 or (len(seconds) < CALLS and sum(seconds) < PATIENCE):
        seconds.append(once())
    return statistics.median(seconds)


def peak_memory(place: str) -> int | None:
    return torch.cuda.max_memory_allocated() if place == "cuda" else None


def scaled_dot_product(*, tiny: bool, attention: str) -> Iterator[Row]:
    """scaled_dot_product_attention, forward and backward."""
    del attention
    place, by = where(tiny=tiny), f"torch {torch.__version__}"
    for shape in attention_shapes(tiny=tiny):
        b, l, n, k = shape
        q, k, v, gradient = (torch.randn(b, n, l, k, dtype=torch.bfloat16, device=place) for _ in range(4))

        def forward():
            with torch.no_grad():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        def both():
            inputs = [a.detach().requires_grad_() for a in (q, k, v)]
            torch.nn.functional.scaled_dot_product_attention(*inputs).backward(gradient)
            return inputs

        calls = {"forward": forward, "forward and backward": both}
        for name, function in attention_passes("plain").items():
            flops = useful_flops(function, None, *[spec(*shape)] * (3 if name == "forward" else 4))
            what, seconds = f"attention of {l} tokens, {name}", timed(calls[name], place)
            yield Row(what=what, by=by, seconds=seconds, flops=flops)


def velocity(name: str, *, tiny: bool, attention: str) -> Iterator[Row]:
    """diffusers' transformer with fresh weights, as it is; it encodes the text again at every step, which is little."""
    del attention
    import diffusers

    place = where(tiny=tiny)
    case, config = sized(CASES[name], tiny=tiny)
    sizes = config.backbone
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(place), torch.no_grad():
        model = diffusers.WanTransformer3DModel(
            num_attention_heads=sizes.num_heads,
            attention_head_dim=sizes.dim // sizes.num_heads,
            ffn_dim=sizes.ffn_dim,
            num_layers=sizes.num_layers,
            text_dim=sizes.text_dim,
            freq_dim=sizes.freq_dim,
        ).eval()
        latents = torch.randn(1, sizes.in_dim, *case.latents)
        text = torch.randn(1, sizes.text_len, sizes.text_dim)
        seconds = timed(lambda: model(latents, torch.full((1,), 500.0), text).sample, place)
    flops = useful_flops(velocity_of(config.tuned(attention="plain")), *velocity_shapes(case, config))
    what, by = f"velocity of {name}, {case.size}", f"diffusers {diffusers.__version__}"
    yield Row(what=what, by=by, seconds=seconds, flops=flops, memory=peak_memory(place))
