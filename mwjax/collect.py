"""Record gameplay: python -m mwjax.collect --out DIR [--levels arena:tech:0 …] [--scenes 100]."""

import argparse
import pathlib

from mwjax.data.captions import caption_model, recaption
from mwjax.data.clips import FRAMES_PER_LATENT
from mwjax.data.files import output_folder
from mwjax.data.outputs import try_encoder
from mwjax.errors import InputError, command
from mwjax.ranges import Range, as_options, check_number
from mwjax.worlds.policy import POLICIES
from mwjax.worlds.recorder import RecordConfig, check_levels, record
from mwjax.worlds.world import level_forms


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mwjax.collect",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", required=True, help="dataset folder to write (an unfinished one is continued)")
    parser.add_argument("--levels", nargs="+", default=["arena:tech:0"], help=f"{level_forms()}; recorded in turn")
    parser.add_argument("--scenes", type=int, default=20, help="number of scenes (one mp4 each)")
    parser.add_argument("--clips", type=int, default=18, help="clips per scene")
    parser.add_argument("--frames", type=int, default=17, help="frames per clip, 4n + 1")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[96, 160],
        metavar=("HEIGHT", "WIDTH"),
        help="of the frames; of Doom, 192x320 divided by a whole number",
    )
    parser.add_argument(
        "--fps",
        type=float,
        default=RecordConfig.fps,
        help="frames a second; of Doom, 35 divided by a whole number (default: %(default).4g)",
    )
    parser.add_argument(
        "--policy",
        choices=list(POLICIES),
        default="hold",
        help="hold: the paper's; random: per frame, as GameFactory",
    )
    parser.add_argument("--seed", type=int, default=0, help="of places, headings and actions")
    parser.add_argument(
        "--captioner",
        default="",
        metavar="MODEL",
        help="vision-language model that describes the clips, such as openbmb/MiniCPM-V-2_6 "
        '(needs the extra "caption")',
    )
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    return parser


def config_of(args: argparse.Namespace) -> RecordConfig:
    """What the flags ask for. Raises InputError for what cannot be recorded."""
    with as_options():
        config = RecordConfig(
            levels=tuple(args.levels),
            scenes=args.scenes,
            clips=args.clips,
            frames=args.frames,
            size=tuple(args.size),
            fps=args.fps,
            seed=args.seed,
            policy=args.policy,
        )
    if args.frames % FRAMES_PER_LATENT != 1:
        raise InputError(f"--frames {args.frames} is not of the form 4n + 1 (17, 65, 81 …)")
    if args.workers is not None:
        check_number(args.workers, "--workers", Range(least=1, most=1024, whole=True))
    check_levels(config)
    output_folder(args.out)
    try_encoder(pathlib.Path(args.out) / "x.mp4", size=config.size, fps=config.fps)
    return config


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    config = config_of(args)
    captioner = caption_model(args.captioner) if args.captioner else None
    out = pathlib.Path(args.out)
    counts = record(config, out, workers=args.workers)
    if captioner:
        recaption(out, captioner)
    print(", ".join(f"{value} {name}" for name, value in counts.items()))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
