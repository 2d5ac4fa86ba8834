"""Sample videos: python -m mwjax.sample --model DIR --prompt TEXT --actions LIST --out FILE.mp4.

Options that are left out are the model's own: what its training wrote beside it, or the released recipe. Beside each
video lies a JSON file with all it takes to make it again; that file, or one with a line for each video, can be given
to --jobs.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import save as to_safetensors
from tqdm import tqdm

import mwjax
from converters.folder import defaults, fingerprint, load_model, preflight
from converters.layouts import Folder
from mwjax.data.files import write_whole
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.jobs import JOB_KEYS, OUT, Job, as_typed, make_jobs, read_jobs
from mwjax.data.outputs import LATENTS, check_outputs, form_of, reserved
from mwjax.data.video import WRITERS, read_image
from mwjax.diffusion.sampler import specify
from mwjax.diffusion.sampling import Sampling
from mwjax.diffusion.solvers import SOLVERS
from mwjax.errors import InputError, command
from mwjax.generation import Request, Stream, compile_ahead, latent_shape, shapes_of
from mwjax.models.attention import BACKENDS, choose
from mwjax.models.model import Model, Network
from mwjax.models.vae import VAEConfig
from mwjax.models.world_model import WorldConfig
from mwjax.ranges import FPS, SEED, SIDE, Range, as_options, check_number
from mwjax.runtime.compile_cache import keep_compiled

DTYPES = ("float32", "bfloat16")
OWN = ("steps", "shift", "guidance", "action_guidance", "height", "width", "fps", "negative")  # options a model has
PROMPT = "A bright gallery with walls of many colours, walking."
ACTIONS = "w*8, yaw:4*8"
SHOWN_HEIGHT = 384  # about as many lines are shown
SMALLEST_TILE = 64
SCALE = Range(least=-1000, most=1000)  # of a LoRA
RANGES = {  # of options that are no part of a Sampling
    "height": SIDE,
    "width": SIDE,
    "fps": FPS,
    "seed": SEED,
    "lora_scale": SCALE,
    "enlarge": Range(least=0, most=64, whole=True),
    "tile": Range(least=0, most=SIDE.most, whole=True),
}


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m mwjax.sample", description=__doc__, formatter_class=form)
    p.add_argument(
        "--model",
        default="runs/tiny_t2w_controlnet/model",
        help='model folder (default: %(default)s), or "tiny" for the shipped base (no actions)',
    )
    add_content(p.add_argument_group("what to show"))
    add_sampling(p.add_argument_group("how"))
    add_economies(p.add_argument_group("faster, smaller"))
    out = p.add_argument_group("output")
    formats = ".mp4, .gif, .safetensors (latents) or, without suffix, a folder of PNG frames; several at once"
    out.add_argument("--out", nargs="+", help=f"{formats} (default: sample.mp4)")
    out.add_argument("--fps", type=float, help="frames per second")
    larger = f"repeat pixels this often (default: up to about {SHOWN_HEIGHT} lines)"
    out.add_argument("--enlarge", type=int, default=0, help=larger)
    out.add_argument("--no-hud", action="store_true", help="do not draw the keys")
    return p


def add_content(p) -> None:
    p.add_argument("--prompt", default=PROMPT)
    negative = "what not to show (default: Wan2.1's own text, nothing for the tiny model)"
    p.add_argument("--negative", default=None, help=negative)
    image = "first frame (png, jpg …) for an image-to-world model; resized to cover the frame, then centre-cropped"
    p.add_argument("--image", default="", help=image)
    p.add_argument(
        "--actions",
        default=ACTIONS,
        help='"w*8, yaw:4*8, space@3" (default: %(default)s); or '
        '[[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "space frames"]; or a file (.json, .csv)',
    )
    p.add_argument("--seed", type=int, default=43, help="(default: %(default)s)")
    jobs = f"JSON-lines file, a video a line, with any of {', '.join(JOB_KEYS)}; the rest from the options"
    p.add_argument("--jobs", default="", help=jobs)


def add_sampling(p) -> None:
    p.add_argument("--steps", type=int, help="denoising steps")
    p.add_argument("--shift", type=float, help="noise schedule shift: 3 at 480p, 5 at 720p")
    p.add_argument("--guidance", type=float, help="classifier-free guidance scale; 1 turns it off")
    push = "push towards the actions by this much; 0 as in the original, 3 for the tiny model"
    p.add_argument("--action-guidance", type=float, help=push)
    p.add_argument("--solver", choices=list(SOLVERS), default="unipc", help="(default: %(default)s)")
    lora = "add a LoRA file (released, PEFT or diffusers naming); may be repeated"
    p.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]", help=lora)
    own = "strength of the model's own game LoRA; 0 removes it (default: %(default)s)"
    p.add_argument("--lora-scale", type=float, default=1.0, help=own)
    p.add_argument("--height", type=int, help="pixels, a multiple of 16")
    p.add_argument("--width", type=int, help="pixels, a multiple of 16")


def add_economies(p) -> None:
    cache = "leave out steps that change little, as the original does with 0.2 (default: off)"
    p.add_argument("--teacache", type=float, default=0.0, metavar="THRESHOLD", help=cache)
    p.add_argument("--teacache-start", type=int, default=5, help="full steps before (default: %(default)s)")
    highest = "highest power first (default: the published one)"
    p.add_argument("--teacache-polynomial", type=float, nargs="+", default=[], metavar="C", help=highest)
    skip = "part of the steps, at the end, without guidance, 0 to 1 (default: 0)"
    p.add_argument("--guidance-skip", type=float, default=0.0, metavar="PART", help=skip)
    every = "compute guidance on every n-th step and reuse what it adds between (default: 1)"
    p.add_argument("--guidance-every", type=int, default=1, metavar="N", help=every)
    dtype = "of weights and activations, but the VAE's (default: bfloat16 on an accelerator, float32 on a CPU)"
    p.add_argument("--dtype", choices=DTYPES, help=dtype)
    tile = "decode in square tiles of this side with blended seams (default: whole frames)"
    p.add_argument("--tile", type=int, default=0, metavar="PIXELS", help=tile)
    kernels = ["auto", *BACKENDS]
    p.add_argument("--attention", choices=kernels, default="auto", help="attention kernel (default: by device)")
    ahead = "compile for these sizes into the cache, print the memory it will take, and stop"
    p.add_argument("--compile-only", action="store_true", help=ahead)


def fill_in(args: argparse.Namespace, own: dict) -> None:
    """The model's own options where none are given. Raises InputError for a number out of its range."""
    for name in OWN:
        if getattr(args, name) is None:
            setattr(args, name, own[name])
    for name, allowed in RANGES.items():
        check_number(getattr(args, name), f"--{name.replace('_', '-')}", allowed)
    args.prompt, args.negative = as_typed(args.prompt), as_typed(args.negative)


def check_tile(tile: int, stride: int) -> None:
    if tile and (tile < SMALLEST_TILE or tile % stride):
        raise InputError(f"--tile {tile} must be a multiple of {stride}, at least {SMALLEST_TILE}")


def sampling_of(args: argparse.Namespace) -> Sampling:
    names = {field.name for field in dataclasses.fields(Sampling)}
    values = {name: value for name, value in vars(args).items() if name in names}
    with as_options():
        return Sampling(**values | {"teacache_polynomial": tuple(args.teacache_polynomial)})


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What the options ask for, alone or for each line of --jobs. Raises InputError."""
    rows = read_jobs(args.jobs) if args.jobs else [("", {})]
    if args.out and len(rows) == 1:  # what is asked for here and now
        where, row = rows[0]
        rows = [(where, row | {"out": args.out})]
    common = {key: getattr(args, key) for key in JOB_KEYS}
    return make_jobs(rows, common, args.out or [OUT])


def check_job(job: Job, model: str, size: tuple[int, int], world: WorldConfig, vae: VAEConfig) -> None:
    """Everything that can be wrong with a job but for its outputs, before any weights are read. size: (height, width).
    Raises InputError."""
    for path in job.out:
        form_of(path)
    latent_shape(world, vae, frames=len(job.rows[0]), height=size[0], width=size[1])
    if job.image and not world.backbone.image_dim:
        raise InputError(f"{model} takes no image; leave --image out")
    if world.backbone.image_dim and not job.image:
        raise InputError(f"{model} starts from an image; give one with --image")
    if job.image:
        read_image(job.image, *size)


def factor_of(args: argparse.Namespace) -> int:
    """How often pixels are repeated."""
    return args.enlarge or max(1, SHOWN_HEIGHT // args.height)


def loras_of(args: argparse.Namespace, folder: Folder) -> list[tuple[pathlib.Path, float]]:
    """The files to fold in, with their scales. Raises InputError for one that is not there or of another model."""
    out = [(folder.lora, args.lora_scale)] if folder.lora and args.lora_scale else []
    for text in args.lora:
        name, colon, scale = text.rpartition(":")
        path, strength = pathlib.Path(text), 1.0
        if colon:
            with contextlib.suppress(ValueError):  # a colon within the name
                path, strength = pathlib.Path(name), float(scale)
        if not path.is_file():
            raise InputError(f"--lora {path} is not there; give a .safetensors file, with :SCALE after it if you like")
        check_number(strength, f"--lora {path}: the scale", SCALE)
        out.append((path, strength))
    for path, _ in out:
        folder.check_lora(path)
    return out


def render(stream: Stream, job: Job, args: argparse.Namespace, record: dict) -> None:
    """Sample one video and write all its files; each appears whole or not at all."""
    for _ in tqdm(stream.steps(), total=stream.sampling.steps, desc="denoising", unit="step"):
        pass
    factor = factor_of(args)
    with contextlib.ExitStack() as files:
        writers = [(path, WRITERS[form_of(path)]) for path in job.out if form_of(path) in WRITERS]
        adds = [files.enter_context(writer(path, fps=args.fps)) for path, writer in writers]
        bar = files.enter_context(tqdm(total=len(job.rows[0]), desc="decoding", unit="frame"))
        for chunk in stream.frames(args.tile) if adds else ():
            rows = slice(bar.n, bar.n + chunk.shape[1])
            frames = enlarge(chunk[0], factor)
            if not args.no_hud:
                frames = draw_hud(frames, *(a[rows] for a in job.rows))
            for add in adds:
                add(frames)
            bar.update(chunk.shape[1])
    for path in job.out:
        if form_of(path) == LATENTS:
            write_whole(path, to_safetensors({"latents": np.asarray(stream.latents)}))
    computed = "".join(str(int(ran)) for ran in stream.computed)  # 1: the step ran the blocks
    described = {"job": job.described} | record | {"computed_steps": computed}
    write_whole(job.record, as_typed(json.dumps(described, indent=1, ensure_ascii=False)) + "\n")


def abstract_networks(folder: Folder, dtype: str, attention: str) -> dict[str, Network]:
    """The folder's networks as they will be loaded, with shapes in place of parameters."""
    out = {}
    for kind, network in folder.networks.items():
        out[kind] = Network(network.config, shapes_of(network.shapes, "float32" if kind == "vae" else dtype))
    world = out["transformer"]
    return out | {"transformer": world._replace(config=world.config.tuned(attention=attention))}


def render_all(model: Model, sampling: Sampling, jobs: list[Job], args: argparse.Namespace, record: dict) -> None:
    for job in jobs:
        image = read_image(job.image, args.height, args.width)[None] if job.image else None
        request = Request(
            prompts=[job.prompt],
            actions=[job.rows],
            seeds=[job.seed],
            height=args.height,
            width=args.width,
            negative=job.negative,
            images=image,
        )
        render(Stream(model, sampling, request), job, args, record)
        print(f"wrote {', '.join(map(str, job.out))} and {job.record}", flush=True)


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    folder = preflight(args.model)
    fill_in(args, defaults(folder))
    sampling = sampling_of(args)
    world, vae = (folder.networks[kind].config for kind in ("transformer", "vae"))
    specify(world, sampling)
    check_tile(args.tile, vae.spatial_stride)
    jobs, loras = jobs_of(args), loras_of(args, folder)
    for job in jobs:
        check_job(job, args.model, (args.height, args.width), world, vae)
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if args.compile_only:
        keep_compiled()
        lengths = sorted({len(job.rows[0]) for job in jobs})
        networks = abstract_networks(folder, dtype, choose(args.attention, dtype))
        compile_ahead(networks, sampling, frames=lengths, size=(args.height, args.width))
        return
    check_outputs(jobs, size=(factor_of(args) * args.height, factor_of(args) * args.width), fps=args.fps)
    with reserved(jobs):
        keep_compiled()
        sample(args, folder, sampling, jobs, loras, dtype)


def sample(
    args: argparse.Namespace,
    folder: Folder,
    sampling: Sampling,
    jobs: list[Job],
    loras: list[tuple[pathlib.Path, float]],
    dtype: str,
) -> None:
    """Load the model and make all videos."""
    attention = choose(args.attention, dtype)
    model = load_model(args.model, dtype=dtype, loras=loras)
    model = model.updated("transformer", config=model.transformer.config.tuned(attention=attention))
    record = {
        "model": args.model,
        "weights": fingerprint(folder),
        "loras": [[str(path), scale] for path, scale in loras],
        "height": args.height,
        "width": args.width,
        "fps": args.fps,
        "dtype": dtype,
        "tile": args.tile,
        "attention": attention,
        "sampling": dataclasses.asdict(sampling),
        "mwjax": mwjax.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    render_all(model, sampling, jobs, args, record)


if __name__ == "__main__":
    main()
