"""Sample videos: python -m mwjax.sample --model DIR --prompt TEXT --actions LIST --out FILE.mp4.

Options that are left out are the model's own: what its training wrote beside it, or the released recipe. Beside each video
lies a JSON file with all it takes to make it again; that file, or one with a line for each video, can be given to --jobs.
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
from converters.folder import Folder, defaults, fingerprint, load_model, preflight
from mwjax.compilation import compile_ahead, keep_compiled
from mwjax.data.actions import Actions, read_actions
from mwjax.data.files import write_whole
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.video import WRITERS, read_image
from mwjax.diffusion.sampler import Sampling, plan
from mwjax.diffusion.solvers import SOLVERS
from mwjax.errors import InputError, command
from mwjax.models.attention import BACKENDS, choose
from mwjax.pipeline import Request, Stream, latent_shape, output_folder

DTYPES = ("float32", "bfloat16")
JOB_KEYS = ("prompt", "negative", "image", "actions", "seed", "out")


@dataclasses.dataclass(frozen=True)
class Shot:
    """One video to make, checked. out: files, the format of each by its suffix."""

    prompt: str
    negative: str
    image: str
    actions: str
    seed: int
    out: tuple[pathlib.Path, ...]
    rows: Actions


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m mwjax.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="runs/tiny_t2w_controlnet/model", help='model folder (default: %(default)s), or "tiny" for the shipped base (no actions)')
    what = p.add_argument_group("what to show")
    what.add_argument("--prompt", default="A bright gallery with walls of many colours, walking.")
    what.add_argument("--negative", default=None, help="what not to show (default: Wan2.1's own text, nothing for the tiny model)")
    what.add_argument("--image", default="", help="first frame (png, jpg …) for an image-to-world model; resized to cover the frame, then centre-cropped")
    what.add_argument("--actions", default="w*8, yaw:4*8", help='"w*8, yaw:4*8, space@3" (default: %(default)s); or '
                      '[[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "space frames"]; or a file (.json, .csv)')  # fmt: skip
    what.add_argument("--seed", type=int, default=43, help="(default: %(default)s)")
    what.add_argument("--jobs", default="", help=f"JSON-lines file, a video a line, with any of {', '.join(JOB_KEYS)}; the rest from the options")
    how = p.add_argument_group("how")
    how.add_argument("--steps", type=int, help="denoising steps")
    how.add_argument("--shift", type=float, help="noise schedule shift: 3 at 480p, 5 at 720p")
    how.add_argument("--guidance", type=float, help="classifier-free guidance scale; 1 turns it off")
    how.add_argument("--action-guidance", type=float, help="push towards the actions by this much; 0 as in the original, 3 for the tiny model")
    how.add_argument("--solver", choices=list(SOLVERS), default="unipc", help="(default: %(default)s)")
    how.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]", help="add a LoRA file (released, PEFT or diffusers naming); may be repeated")
    how.add_argument("--lora-scale", type=float, default=1.0, help="strength of the model's own game LoRA; 0 removes it (default: %(default)s)")
    how.add_argument("--height", type=int, help="pixels, a multiple of 16")
    how.add_argument("--width", type=int, help="pixels, a multiple of 16")
    fast = p.add_argument_group("faster, smaller")
    fast.add_argument("--teacache", type=float, default=0.0, metavar="THRESHOLD", help="leave out steps that change little, as the original does with 0.2 (default: off)")
    fast.add_argument("--teacache-start", type=int, default=5, help="full steps before (default: %(default)s)")
    fast.add_argument("--teacache-polynomial", type=float, nargs="+", default=[], metavar="C", help="highest power first (default: the published one)")
    fast.add_argument("--guidance-skip", type=float, default=0.0, metavar="PART", help="part of the steps, at the end, without guidance, 0 to 1 (default: 0)")
    fast.add_argument("--guidance-every", type=int, default=1, metavar="N", help="compute guidance on every n-th step and repeat its push between (default: 1)")
    fast.add_argument("--dtype", choices=DTYPES, help="of weights and activations, but the VAE's (default: bfloat16 on an accelerator, float32 on a CPU)")
    fast.add_argument("--tile", type=int, default=0, metavar="PIXELS", help="decode in square tiles of this side with blended seams (default: whole frames)")
    fast.add_argument("--attention", choices=["auto", *BACKENDS], default="auto", help="attention kernel (default: by device)")
    fast.add_argument("--compile-only", action="store_true", help="compile for these sizes into the cache, print the memory it will take, and stop")
    out = p.add_argument_group("output")
    out.add_argument("--out", nargs="+", help=".mp4, .gif, .safetensors (latents) or, without suffix, a folder of PNG frames; several at once (default: sample.mp4)")
    out.add_argument("--fps", type=float, help="frames per second")
    out.add_argument("--enlarge", type=int, default=0, help="repeat pixels this often (default: up to about 384 lines)")
    out.add_argument("--no-hud", action="store_true", help="do not draw the keys")
    return p


def check(args: argparse.Namespace, folder: Folder) -> list[Shot]:
    """Everything that can be wrong is found here, before any weights are read; fills in the model's own options."""
    own = defaults(folder)
    for name in ("steps", "shift", "guidance", "action_guidance", "height", "width", "fps", "negative"):
        if getattr(args, name) is None:
            setattr(args, name, own[name])
    for name in ("steps", "fps", "shift", "guidance_every"):
        if getattr(args, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} must be above 0")
    for name, value in (("--guidance-skip", args.guidance_skip), ("--teacache", args.teacache / 1e9)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} {getattr(args, name[2:].replace('-', '_'))} must be {'between 0 and 1' if name == '--guidance-skip' else '0 or more'}")
    if args.tile and (args.tile < 64 or args.tile % 8):
        raise InputError(f"--tile {args.tile} must be a multiple of 8, at least 64")
    world = folder.networks["transformer"].config
    plan(world, sampling_of(args))
    shots, jobs = [], read_jobs(args.jobs) if args.jobs else [{}]
    if args.out and len(jobs) == 1:  # what is asked for here and now
        jobs = [jobs[0] | {"out": args.out}]
    args.out = args.out or ["sample.mp4"]
    for number, row in enumerate(jobs, 1):
        values = {key: row.get(key, getattr(args, key)) for key in JOB_KEYS}
        out = [values["out"]] if isinstance(values["out"], str) else values["out"]
        paths = tuple(pathlib.Path(p) if "out" in row or not args.jobs else pathlib.Path(p).with_stem(f"{pathlib.Path(p).stem}_{number:04d}") for p in out)
        shot = Shot(**values | {"seed": int(values["seed"]), "out": paths, "rows": read_actions(values["actions"])})
        for path in shot.out:
            if path.suffix not in (*WRITERS, ".safetensors"):
                raise InputError(f"--out {path} must end in .mp4, .gif or .safetensors, or have no suffix (a folder of PNG frames)")
            if path.suffix == "" and path.exists() and not all(p.name.startswith("frame_") for p in path.iterdir() if path.is_dir()):
                raise InputError(f"--out {path} is there and holds other things than frames; choose another folder")
        latent_shape(world, len(shot.rows[0]), args.height, args.width)
        if bool(world.backbone.image_dim) != bool(shot.image):
            raise InputError(f"{args.model} takes no image; leave --image out" if shot.image else f"{args.model} starts from an image; give one with --image")
        if shot.image:
            read_image(shot.image, args.height, args.width)
        shots.append(shot)
    return shots


def read_jobs(path: str) -> list[dict]:
    """The lines of a jobs file. Raises InputError naming the line for what is not a job."""
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--jobs {path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    rows = []
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if text.lstrip().startswith("{") and len(lines) > 1 and lines[0][1].strip() == "{":
        lines = [(1, text)]  # one object over several lines, as written beside a video
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"--jobs {path} line {number} is not JSON ({error})") from None
        row = row.get("job", row) if isinstance(row, dict) else row
        odd = [key for key in row if key not in JOB_KEYS] if isinstance(row, dict) else ["?"]
        if odd:
            raise InputError(f"--jobs {path} line {number}: {odd[0]!r} is none of {', '.join(JOB_KEYS)}")
        rows.append(row)
    if not rows:
        raise InputError(f"--jobs {path} lists no videos")
    return rows


def sampling_of(args: argparse.Namespace) -> Sampling:
    return Sampling(args.steps, args.shift, args.guidance, args.solver, args.action_guidance, args.guidance_every, args.guidance_skip,
                    args.teacache, args.teacache_start, tuple(args.teacache_polynomial))  # fmt: skip


def loras_of(args: argparse.Namespace, folder: Folder) -> list[tuple[pathlib.Path, float]]:
    """The files to fold in, with their scales."""
    out = [(folder.lora, args.lora_scale)] if folder.lora and args.lora_scale else []
    for text in args.lora:
        name, colon, scale = text.rpartition(":")
        try:
            path, strength = (pathlib.Path(name), float(scale)) if colon else (pathlib.Path(text), 1.0)
        except ValueError:
            path, strength = pathlib.Path(text), 1.0
        if not path.is_file():
            raise InputError(f"--lora {path} is not there; give a .safetensors file, with :SCALE after it if you like")
        out.append((path, strength))
    return out


def make(stream: Stream, shot: Shot, args: argparse.Namespace, record: dict) -> None:
    """Sample one video and write all its files; each appears whole or not at all."""
    for _ in tqdm(stream.steps(), total=args.steps, desc="denoising", unit="step"):
        pass
    factor = args.enlarge or max(1, 384 // args.height)
    with contextlib.ExitStack() as files:
        adds = [files.enter_context(WRITERS[path.suffix](path, fps=args.fps)) for path in shot.out if path.suffix in WRITERS]
        done, bar = 0, tqdm(total=len(shot.rows[0]), desc="decoding", unit="frame")
        for chunk in stream.frames(args.tile) if adds else ():
            rows = slice(done, done + chunk.shape[1])
            frames = enlarge(chunk[0], factor)
            frames = frames if args.no_hud else draw_hud(frames, *(a[rows] for a in shot.rows))
            for add in adds:
                add(frames)
            done += chunk.shape[1]
            bar.update(chunk.shape[1])
        bar.close()
    for path in shot.out:
        if path.suffix == ".safetensors":
            write_whole(path, to_safetensors({"latents": np.asarray(stream.latents)}))
    job = {key: getattr(shot, key) for key in JOB_KEYS} | {"out": [str(p) for p in shot.out]}
    computed = "".join(str(int(c)) for c in stream.computed)  # 1: the step ran the blocks
    text = json.dumps({"job": job} | record | {"computed_steps": computed}, indent=1, ensure_ascii=False) + "\n"
    write_whole(shot.out[0].with_suffix(".json"), text)


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    folder = preflight(args.model)
    shots, loras = check(args, folder), loras_of(args, folder)
    for path, _ in loras:
        folder.check_lora(path)
    keep_compiled()
    args.dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    world = folder.networks["transformer"].config
    backbone = dataclasses.replace(world.backbone, attention=choose(args.attention, args.dtype))
    world = dataclasses.replace(world, backbone=backbone)
    sampling = sampling_of(args)
    if args.compile_only:
        compile_ahead(folder, world, sampling, frames=sorted({len(s.rows[0]) for s in shots}), height=args.height, width=args.width, dtype=args.dtype)
        return
    for shot in shots:
        for path in shot.out:
            output_folder(path.parent)
    model = dataclasses.replace(load_model(args.model, dtype=args.dtype, loras=loras), world=world)
    record = {
        "model": args.model, "weights": fingerprint(folder), "loras": [[str(path), scale] for path, scale in loras], "height": args.height, "width": args.width,
        "fps": args.fps, "dtype": args.dtype, "tile": args.tile, "attention": backbone.attention, "sampling": dataclasses.asdict(sampling),
        "mwjax": mwjax.__version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind,
    }  # fmt: skip
    for shot in shots:
        image = read_image(shot.image, args.height, args.width)[None] if shot.image else None
        request = Request([shot.prompt], [shot.rows], [shot.seed], args.height, args.width, shot.negative, image)
        make(Stream(model, sampling, request), shot, args, record)
        print(f"wrote {', '.join(map(str, shot.out))} and {shot.out[0].with_suffix('.json')}", flush=True)


if __name__ == "__main__":
    main()
