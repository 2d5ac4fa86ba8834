"""mwjax beside diffusers: python experiments/benchmarks/against_diffusers.py [--parts dit vae_decode …] [--out against_diffusers.json].

Same weights (drawn by PyTorch, saved by diffusers and transformers, imported by this project's converters), same inputs, same
machine: two processes, one a side, that take turns. Reports the first call (compilation included), the median of the others,
their ratio call by call, the largest relative difference of the results, and each side's peak memory. float32, all cores.
Needs the extra "test".
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

import numpy as np

SIZES = {
    "transformer": {"num_attention_heads": 4, "attention_head_dim": 128, "ffn_dim": 2048, "num_layers": 6, "text_dim": 512},
    "vae": {"base_dim": 96},
    "text_encoder": {"vocab_size": 4096, "d_model": 512, "d_kv": 64, "d_ff": 1280, "num_layers": 6, "num_heads": 8},
}
FRAMES, HEIGHT, WIDTH = 17, 192, 320  # of the transformer: 5 latents of 12×20 tokens
SAMPLED = 5  # frames of whole sampling, which is mostly the autoencoder
SMALL = (5, 96, 160)  # frames, height, width of the autoencoder's parts
STEPS, GUIDANCE = 4, 3.0
PARTS = ("dit", "vae_encode", "vae_decode", "umt5", "sampling")


def make_models(folder: pathlib.Path) -> None:
    """Write drawn models in the diffusers layout, and import them."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from converters.__main__ import main

    torch.manual_seed(0)
    models = {
        "transformer": WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=16, out_channels=16, **SIZES["transformer"]),
        "vae": AutoencoderKLWan(**SIZES["vae"]),
        "text_encoder": UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **SIZES["text_encoder"])),
    }
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 0.1 if parameter.ndim < 2 else 0.8 / np.sqrt(parameter[0].numel())
                parameter.add_(torch.randn_like(parameter) * scale)
        model.save_pretrained(folder / "theirs" / name)
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(folder / "theirs/scheduler")
    (folder / "theirs/tokenizer").mkdir()
    (folder / "theirs/tokenizer/tokenizer.json").write_text("{}")
    main(["import", str(folder / "theirs"), str(folder / "ours")])


def inputs(part: str) -> list[np.ndarray]:
    """The same arrays for both sides, channels last."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    latents = (1, FRAMES // 4 + 1, HEIGHT // 8, WIDTH // 8, 16)
    text = (1, 512, SIZES["transformer"]["text_dim"])
    frames, height, width = SMALL
    return {
        "dit": lambda: [draw(*latents), draw(*text)],
        "vae_encode": lambda: [rng.uniform(-1, 1, (1, frames, height, width, 3)).astype(np.float32)],
        "vae_decode": lambda: [draw(1, frames // 4 + 1, height // 8, width // 8, 16)],
        "umt5": lambda: [rng.integers(1, 4096, (1, 512))],
        "sampling": lambda: [draw(1, SAMPLED // 4 + 1, *latents[2:]), draw(*text), draw(*text)],
    }[part]()


def ours(part: str, folder: pathlib.Path):
    import jax

    from converters.layouts import open_network
    from converters.tables import load
    from mwjax.diffusion.sampler import Sampling, decode, plan, sample
    from mwjax.models.text import TextEncoder
    from mwjax.models.vae import VAE
    from mwjax.models.world_model import WorldModel

    needed = {"dit": ["transformer"], "umt5": ["text_encoder"], "sampling": ["transformer", "vae"]}.get(part, ["vae"])
    nets = {kind: open_network(folder / "ours", kind) for kind in needed}
    params = {kind: jax.tree.map(jax.numpy.asarray, load(n.rows, n.tensors, n.shapes)) for kind, n in nets.items()}
    cfg = {kind: n.config for kind, n in nets.items()}
    arrays = inputs(part)

    def dit(params, x, text):
        model, variables = WorldModel(cfg["transformer"]), {"params": params["transformer"]}
        return model.apply(variables, x, np.full((1,), 500.0, np.float32), model.apply(variables, text, method="condition"))[0]

    def encode(params, video):
        return VAE(cfg["vae"]).apply({"params": params["vae"]}, video, method="encode", mutable=["cache"])[0][0]

    functions = {
        "dit": dit, "vae_encode": encode, "vae_decode": lambda params, latents: decode(cfg["vae"], params["vae"], latents),
        "umt5": lambda params, ids: TextEncoder(cfg["text_encoder"]).apply({"params": params["text_encoder"]}, ids, np.ones(ids.shape, np.int32)),
    }  # fmt: skip
    if part != "sampling":
        jitted = jax.jit(functions[part])
        return lambda: np.asarray(jitted(params, *arrays))
    program, tables = plan(cfg["transformer"], Sampling(STEPS, 3.0, GUIDANCE))
    noise, text, negative = arrays
    blank = (np.zeros((1, SAMPLED, 7), np.float32), np.zeros((1, SAMPLED, 2), np.float32))
    variables = {"params": params["transformer"]}
    return lambda: np.asarray(sample(cfg["transformer"], cfg["vae"], program, variables, params["vae"], tables, noise, text, negative, *blank))


def theirs(part: str, folder: pathlib.Path):
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    from mwjax.models.vae import LATENT_MEAN, LATENT_STD

    torch.set_grad_enabled(False)
    torch.set_num_threads(os.cpu_count())
    root = folder / "theirs"
    first = lambda a: torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1)))
    last = lambda a: np.moveaxis(a.numpy(), 1, -1)
    arrays = inputs(part)
    if part == "dit":
        model = WanTransformer3DModel.from_pretrained(root / "transformer").eval()
        x, text = first(arrays[0]), torch.from_numpy(arrays[1])
        return lambda: last(model(x, torch.full((1,), 500.0), text).sample)
    if part == "umt5":
        model = UMT5EncoderModel.from_pretrained(root / "text_encoder").eval()
        ids = torch.from_numpy(arrays[0])
        return lambda: model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.numpy()
    vae = AutoencoderKLWan.from_pretrained(root / "vae").eval()
    mean, deviation = (torch.from_numpy(a).reshape(1, -1, 1, 1, 1) for a in (LATENT_MEAN, LATENT_STD))
    if part == "vae_encode":
        video = first(arrays[0])
        return lambda: last((vae.encode(video).latent_dist.mean - mean) / deviation)
    if part == "vae_decode":
        latents = first(arrays[0]) * deviation + mean
        return lambda: last(vae.decode(latents, return_dict=False)[0].clamp(-1, 1) / 2 + 0.5)
    transformer = WanTransformer3DModel.from_pretrained(root / "transformer").eval()
    pipe = WanPipeline(None, None, vae, UniPCMultistepScheduler.from_pretrained(root / "scheduler"), transformer)
    pipe.set_progress_bar_config(disable=True)
    noise, text, negative = first(arrays[0]), *map(torch.from_numpy, arrays[1:])
    return lambda: pipe(prompt_embeds=text, negative_prompt_embeds=negative, latents=noise, num_frames=SAMPLED, height=HEIGHT, width=WIDTH,
                        num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np").frames  # fmt: skip


def worker(side: str, part: str, folder: pathlib.Path, pipe) -> None:
    run = {"mwjax": ours, "diffusers": theirs}[side](part, folder)
    pipe.send("ready")
    while pipe.recv() == "run":
        began = time.perf_counter()
        result = run()
        pipe.send((time.perf_counter() - began, result))
    status = pathlib.Path("/proc/self/status").read_text()
    pipe.send(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)  # getrusage would count the parent's


def measure(part: str, folder: pathlib.Path, repeats: int) -> dict:
    """Both sides in turn."""
    context, sides = multiprocessing.get_context("spawn"), ("mwjax", "diffusers")
    pipes, processes = {}, []
    for side in sides:
        pipes[side], there = context.Pipe()
        processes.append(context.Process(target=worker, args=(side, part, folder, there)))
        processes[-1].start()
        pipes[side].recv()
    times, results = {side: [] for side in sides}, {}
    for _ in range(repeats + 1):
        for side in sides:
            pipes[side].send("run")
            seconds, results[side] = pipes[side].recv()
            times[side].append(seconds)
    out = {}
    for side in sides:
        pipes[side].send("stop")
        out[side] = {"first": times[side][0], "median": statistics.median(times[side][1:]), "all": times[side], "peak_gb": pipes[side].recv() / 1e9}
    for process in processes:
        process.join()
    ratios = [b / a for a, b in zip(*(times[side][1:] for side in sides), strict=True)]
    a, b = (results[side].astype(np.float64) for side in sides)
    difference = float(np.linalg.norm(a - b) / np.linalg.norm(b)) if part != "sampling" else None  # the two schedulers place their steps differently
    return out | {"speedup": statistics.median(ratios), "speedups": ratios, "relative_difference": difference}


def main() -> None:
    import diffusers
    import jax
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="against_diffusers.json")
    args = parser.parse_args()
    versions = {"jax": jax.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version()}
    report = {"hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}, "versions": versions, "sizes": SIZES, "parts": {}}
    print("| part | mwjax | diffusers | speed-up | mwjax first call | peak memory, GB | difference |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        make_models(pathlib.Path(place))
        for part in args.parts:
            row = report["parts"][part] = measure(part, pathlib.Path(place), args.repeats)
            m, d, difference = row["mwjax"], row["diffusers"], row["relative_difference"]
            print(f"| {part} | {m['median']:.2f} s | {d['median']:.2f} s | {row['speedup']:.2f}× | {m['first']:.1f} s | {m['peak_gb']:.2f}, {d['peak_gb']:.2f} "
                  f"| {'' if difference is None else f'{difference:.0e}'} |", flush=True)  # fmt: skip
    pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
