"""Sample a video: python -m mwjax.sample --model DIR --prompt TEXT --actions LIST --out FILE.mp4."""

import argparse
import pathlib
import time

from converters.folder import load_model, preflight
from mwjax.data.actions import read_actions
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.video import read_image, write_video
from mwjax.diffusion.sampler import Sampling
from mwjax.diffusion.solvers import SOLVERS
from mwjax.errors import InputError, command
from mwjax.models import lora
from mwjax.pipeline import generate, latent_shape, output_folder

EXAMPLE = "w*8, yaw:4*8"


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.sample", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="runs/tiny_t2w_controlnet/model", help='model folder, or "tiny" for the shipped base (no actions)')
    parser.add_argument("--prompt", default="A tech base with metal walls, looking around.", help="what to show")
    parser.add_argument("--negative", default="", help="what not to show")
    parser.add_argument("--image", default="", help="first frame (png, jpg …) for an image-to-world model; resized to cover the frame, then centre-cropped")
    parser.add_argument("--actions", default=EXAMPLE,
                        help='"w*8, yaw:4*8, space@3"; or [[end_frame, "w s a d shift ctrl _ mouse_y mouse_x"], …, "space frames"]; or a file (.json, .csv)')  # fmt: skip
    parser.add_argument("--seed", type=int, default=43)
    parser.add_argument("--steps", type=int, default=30, help="denoising steps")
    parser.add_argument("--shift", type=float, default=3.0, help="noise schedule shift")
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance scale; 1 turns it off")
    parser.add_argument("--action-guidance", type=float, default=0.0, help="push towards the actions by this much; 0 as in the original, 3 for the tiny model")
    parser.add_argument("--solver", choices=list(SOLVERS), default="unipc")
    parser.add_argument("--lora-scale", type=float, default=1.0, help="strength of the game LoRA; 0 removes it")
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--fps", type=float, default=17.5)
    parser.add_argument("--enlarge", type=int, default=0, help="repeat pixels this often in the mp4 (0: up to about 384 lines)")
    parser.add_argument("--no-hud", action="store_true", help="do not draw the keys")
    parser.add_argument("--out", default="sample.mp4", help="mp4 file to write")
    args = parser.parse_args(argv)
    actions = read_actions(args.actions)
    for name in ("steps", "fps", "shift"):
        if getattr(args, name) <= 0:
            raise InputError(f"--{name} {getattr(args, name)} must be above 0")
    out = pathlib.Path(args.out)
    if out.suffix != ".mp4":
        raise InputError(f"--out {args.out} must end in .mp4")
    world = preflight(args.model).networks["transformer"].config
    latent_shape(world, len(actions[0]), args.height, args.width)
    if bool(world.backbone.image_dim) != bool(args.image):
        raise InputError(f"{args.model} takes no image; leave --image out" if args.image else f"{args.model} starts from an image; give one with --image")
    images = read_image(args.image, args.height, args.width)[None] if args.image else None
    model = load_model(args.model)
    if model.lora and args.lora_scale:
        model.world_params["backbone"] = lora.merge(model.world_params["backbone"], model.lora, args.lora_scale)
    model.lora = None
    output_folder(out.parent)
    sampling = Sampling(args.steps, args.shift, args.guidance, args.solver, args.action_guidance)
    began = time.time()
    video = generate(model, sampling, [args.prompt], [actions], height=args.height, width=args.width, seeds=[args.seed],
                     negative=args.negative, images=images)[0]  # fmt: skip
    frames = enlarge(video, args.enlarge or max(1, 384 // args.height))
    write_video(out, frames if args.no_hud else draw_hud(frames, *actions), fps=args.fps)
    print(f"{len(video)} frames in {time.time() - began:.1f} s, compilation included; wrote {out}")


if __name__ == "__main__":
    main()
