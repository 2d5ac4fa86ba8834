"""Record gameplay: python -m mwjax.collect --out DIR [--levels arena:tech:0 …] [--scenes 100]."""

import argparse
import pathlib

from mwjax.data.captions import caption_model, recaption
from mwjax.errors import InputError, command
from mwjax.worlds.policy import POLICIES
from mwjax.worlds.recorder import Recording, record


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mwjax.collect", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", required=True, help="dataset folder to write (an unfinished one is continued)")
    parser.add_argument("--levels", nargs="+", default=["arena:tech:0"], help="arena:THEME:SEED, scenario:NAME, freedoom1:E1M1 or freedoom2:MAP01, recorded in turn")
    parser.add_argument("--scenes", type=int, default=20, help="number of scenes (one mp4 each)")
    parser.add_argument("--clips", type=int, default=18, help="clips per scene")
    parser.add_argument("--frames", type=int, default=17, help="frames per clip, 4n + 1")
    parser.add_argument("--size", type=int, nargs=2, default=[96, 160], metavar=("HEIGHT", "WIDTH"), help="192x320 divided by a whole number")
    parser.add_argument("--policy", choices=list(POLICIES), default="hold", help="hold: the paper's; random: per frame, as GameFactory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captioner", default="", help='vision-language model that describes the clips, such as openbmb/MiniCPM-V-2_6 (needs the extra "caption")')
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    args = parser.parse_args(argv)
    if args.frames % 4 != 1:
        raise InputError(f"--frames {args.frames} is not of the form 4n + 1 (17, 65, 81 …)")
    if args.scenes < 1 or args.clips < 1:
        raise InputError("--scenes and --clips must be at least 1")
    if min(args.size) < 1 or 192 % args.size[0] or args.size[0] * 320 != args.size[1] * 192:
        raise InputError(f"--size {args.size[0]} {args.size[1]} must be 192 320 divided by a whole number, such as 96 160")
    plan = Recording(levels=tuple(args.levels), scenes=args.scenes, clips=args.clips, frames=args.frames, size=tuple(args.size), seed=args.seed, policy=args.policy)
    captioner = caption_model(args.captioner) if args.captioner else None
    counts = record(plan, args.out, workers=args.workers)
    if captioner:
        recaption(pathlib.Path(args.out), captioner)
    print(", ".join(f"{value} {name}" for name, value in counts.items()))
    print(f"wrote {pathlib.Path(args.out)}")


if __name__ == "__main__":
    main()
