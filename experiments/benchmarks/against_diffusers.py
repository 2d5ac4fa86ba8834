"""mwjax beside diffusers on this machine.

    python experiments/benchmarks/against_diffusers.py [--parts dit vae_decode …] [--out against_diffusers.json]

Same weights (drawn by PyTorch, saved by diffusers and transformers, imported by this project's converters), same
inputs: two processes, one a side, that take turns. Reports the first call (compilation included), the median of the
others, their ratio call by call, the largest relative difference of the results, and each side's peak memory. float32,
all cores. Needs the extra "test".
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIZES = {
    "transformer": {
        "num_attention_heads": 4,
        "attention_head_dim": 128,
        "ffn_dim": 2048,
        "num_layers": 6,
        "text_dim": 512,
    },
    "vae": {"base_dim": 96},
    "text_encoder": {"vocab_size": 4096, "d_model": 512, "d_kv": 64, "d_ff": 1280, "num_layers": 6, "num_heads": 8},
}
FRAMES, HEIGHT, WIDTH = 17, 192, 320  # of the transformer: 5 latents of 12×20 tokens
SAMPLED = 5  # frames of whole sampling, which is mostly the autoencoder
SMALL = (5, 96, 160)  # frames, height, width of the autoencoder's parts
STEPS, GUIDANCE = 4, 3.0
SIDES = ("mwjax", "diffusers")
COLUMNS = ("part", *SIDES, "speed-up", "mwjax first call", "peak memory, GB", "difference")


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def dit_inputs(rng: np.random.Generator) -> list[np.ndarray]:
    """Latents and text."""
    latents = draw(rng, 1, FRAMES // 4 + 1, HEIGHT // 8, WIDTH // 8, 16)
    return [latents, draw(rng, 1, 512, SIZES["transformer"]["text_dim"])]


def video_input(rng: np.random.Generator) -> list[np.ndarray]:
    frames, height, width = SMALL
    return [rng.uniform(-1, 1, (1, frames, height, width, 3)).astype(np.float32)]


def latent_input(rng: np.random.Generator) -> list[np.ndarray]:
    frames, height, width = SMALL
    return [draw(rng, 1, frames // 4 + 1, height // 8, width // 8, 16)]


def token_input(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(1, 4096, (1, 512))]


def sampling_inputs(rng: np.random.Generator) -> list[np.ndarray]:
    """Noise, text, negative text."""
    noise = draw(rng, 1, SAMPLED // 4 + 1, HEIGHT // 8, WIDTH // 8, 16)
    width = SIZES["transformer"]["text_dim"]
    return [noise, draw(rng, 1, 512, width), draw(rng, 1, 512, width)]


class Part(NamedTuple):
    """What is timed: the networks it needs, and what draws the arrays that both sides get, channels last."""

    needs: tuple[str, ...]
    inputs: Callable[[np.random.Generator], list[np.ndarray]]


PARTS = {
    "dit": Part(("transformer",), dit_inputs),
    "vae_encode": Part(("vae",), video_input),
    "vae_decode": Part(("vae",), latent_input),
    "umt5": Part(("text_encoder",), token_input),
    "sampling": Part(("transformer", "vae"), sampling_inputs),
}


def make_models(folder: pathlib.Path) -> None:
    """Write drawn models in the diffusers layout, and import them."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from converters.__main__ import main

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=16, out_channels=16, **SIZES["transformer"])
    text = UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **SIZES["text_encoder"]))
    models = {"transformer": transformer, "vae": AutoencoderKLWan(**SIZES["vae"]), "text_encoder": text}
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 0.1 if parameter.ndim < 2 else 0.8 / np.sqrt(parameter[0].numel())
                parameter.add_(torch.randn_like(parameter) * scale)
        model.save_pretrained(folder / "theirs" / name)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.save_pretrained(folder / "theirs/scheduler")
    (folder / "theirs/tokenizer").mkdir()
    (folder / "theirs/tokenizer/tokenizer.json").write_text("{}")
    main(["import", str(folder / "theirs"), str(folder / "ours")])


def ours(part: str, folder: pathlib.Path, arrays: list[np.ndarray]) -> Callable[[], np.ndarray]:
    import jax

    from converters.layouts import open_network
    from converters.tables import load
    from mwjax.diffusion.decoding import decode
    from mwjax.diffusion.sampler import sample, specify
    from mwjax.diffusion.sampling import Sampling
    from mwjax.models.text import TextEncoder
    from mwjax.models.vae import VAE
    from mwjax.models.world_model import WorldModel

    stored = {kind: open_network(folder / "ours", kind) for kind in PARTS[part].needs}
    config = {kind: network.config for kind, network in stored.items()}
    params = {}
    for kind, network in stored.items():
        params[kind] = jax.tree.map(jax.numpy.asarray, load(network.rows, network.tensors, network.shapes))

    def dit(params, latents, text):
        model, variables = WorldModel(config["transformer"]), {"params": params["transformer"]}
        condition = model.apply(variables, {"text": text}, method="condition")
        return model.apply(variables, latents, np.full((1,), 500.0, np.float32), condition)[0]

    def encode(params, video):
        variables = {"params": params["vae"]}
        return VAE(config["vae"]).apply(variables, video, method="encode", mutable=["cache"])[0][0]

    def decoded(params, latents):
        return decode(config["vae"], params["vae"], latents)

    def umt5(params, ids):
        encoder = TextEncoder(config["text_encoder"])
        return encoder.apply({"params": params["text_encoder"]}, ids, np.ones(ids.shape, np.int32))

    def sampled(params, noise, text, negative):
        blank = {"keyboard": np.zeros((1, SAMPLED, 7), np.float32), "mouse": np.zeros((1, SAMPLED, 2), np.float32)}
        inputs = {"text": text, "negative": negative} | blank
        weights = {"transformer": {"params": params["transformer"]}, "vae": params["vae"]}
        return sample(spec, config["vae"], weights, numbers, noise, inputs)[0]

    if part == "sampling":
        spec, numbers = specify(config["transformer"], Sampling(steps=STEPS, shift=3.0, guidance=GUIDANCE))
        return lambda: np.asarray(sampled(params, *arrays))
    functions = {"dit": dit, "vae_encode": encode, "vae_decode": decoded, "umt5": umt5}
    jitted = jax.jit(functions[part])
    return lambda: np.asarray(jitted(params, *arrays))


def theirs(part: str, folder: pathlib.Path, arrays: list[np.ndarray]) -> Callable[[], np.ndarray]:
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    from mwjax.models.vae import LATENT_MEAN, LATENT_STD

    torch.set_grad_enabled(False)
    torch.set_num_threads(os.cpu_count())
    root = folder / "theirs"
    classes = {"transformer": WanTransformer3DModel, "vae": AutoencoderKLWan, "text_encoder": UMT5EncoderModel}
    nets = {kind: classes[kind].from_pretrained(root / kind).eval() for kind in PARTS[part].needs}
    first, *rest = (torch.from_numpy(array) for array in arrays)
    if part != "umt5":  # channels second
        first = first.moveaxis(-1, 1).contiguous()
    mean, deviation = (torch.from_numpy(a).reshape(1, -1, 1, 1, 1) for a in (LATENT_MEAN, LATENT_STD))

    def last(tensor):
        return np.moveaxis(tensor.numpy(), 1, -1)

    def dit():
        return last(nets["transformer"](first, torch.full((1,), 500.0), *rest).sample)

    def encode():
        return last((nets["vae"].encode(first).latent_dist.mean - mean) / deviation)

    def decoded():
        frames = nets["vae"].decode(first * deviation + mean, return_dict=False)[0]
        return last(frames.clamp(-1, 1) / 2 + 0.5)

    def umt5():
        return nets["text_encoder"](first, attention_mask=torch.ones_like(first)).last_hidden_state.numpy()

    def sampled():
        return pipe(
            prompt_embeds=rest[0],
            negative_prompt_embeds=rest[1],
            latents=first,
            num_frames=SAMPLED,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).frames

    if part == "sampling":
        scheduler = UniPCMultistepScheduler.from_pretrained(root / "scheduler")
        pipe = WanPipeline(None, None, nets["vae"], scheduler, nets["transformer"])
        pipe.set_progress_bar_config(disable=True)
        return sampled
    return {"dit": dit, "vae_encode": encode, "vae_decode": decoded, "umt5": umt5}[part]


def worker(side: str, part: str, folder: pathlib.Path, pipe) -> None:
    """Run one side whenever it is told to; at the end say how much memory it took."""
    arrays = PARTS[part].inputs(np.random.default_rng(0))
    run = {"mwjax": ours, "diffusers": theirs}[side](part, folder, arrays)
    pipe.send("ready")
    while pipe.recv() == "run":
        began = time.perf_counter()
        result = run()
        pipe.send((time.perf_counter() - began, result))
    status = pathlib.Path("/proc/self/status").read_text()
    pipe.send(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)  # getrusage would count the parent's


def measure(part: str, folder: pathlib.Path, repeats: int) -> dict:
    """Both sides in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side in SIDES:
        pipes[side], there = context.Pipe()
        processes.append(context.Process(target=worker, args=(side, part, folder, there)))
        processes[-1].start()
        pipes[side].recv()
    times = {side: [] for side in SIDES}
    results = {}
    for _ in range(repeats + 1):
        for side in SIDES:
            pipes[side].send("run")
            seconds, results[side] = pipes[side].recv()
            times[side].append(seconds)
    row = {}
    for side in SIDES:
        pipes[side].send("stop")
        first, *others = times[side]
        peak = pipes[side].recv() / 1e9
        row[side] = {"first": first, "median": statistics.median(others), "all": times[side], "peak_gb": peak}
    for process in processes:
        process.join()
    ratios = [b / a for a, b in zip(*(times[side][1:] for side in SIDES), strict=True)]
    a, b = (results[side].astype(np.float64) for side in SIDES)
    difference = None  # of whole sampling: the two schedulers place their steps differently
    if part != "sampling":
        difference = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return row | {"speedup": statistics.median(ratios), "speedups": ratios, "relative_difference": difference}


def line(part: str, row: dict) -> str:
    """A row of the printed table, by COLUMNS."""
    ours, theirs = (row[side] for side in SIDES)
    difference = row["relative_difference"]
    cells = (
        part,
        f"{ours['median']:.2f} s",
        f"{theirs['median']:.2f} s",
        f"{row['speedup']:.2f}×",
        f"{ours['first']:.1f} s",
        f"{ours['peak_gb']:.2f}, {theirs['peak_gb']:.2f}",
        "" if difference is None else f"{difference:.0e}",
    )
    return f"| {' | '.join(cells)} |"


def versions() -> dict[str, str]:
    import diffusers
    import jax
    import torch

    modules = {"jax": jax, "torch": torch, "diffusers": diffusers}
    found = {name: module.__version__ for name, module in modules.items()}
    return found | {"python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="against_diffusers.json")
    args = parser.parse_args()
    hardware = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report = {"hardware": hardware, "versions": versions(), "sizes": SIZES, "parts": {}}
    with tempfile.TemporaryDirectory() as place:
        make_models(pathlib.Path(place))
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for part in args.parts:
            row = report["parts"][part] = measure(part, pathlib.Path(place), args.repeats)
            print(line(part, row), flush=True)
    pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
