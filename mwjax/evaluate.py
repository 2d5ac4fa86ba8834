"""Score folders of generated clips: python -m mwjax.evaluate --videos DIR --reference DIR --actions DIR --out report/

Every `NAME.mp4` of --videos is held against --reference/NAME.mp4 (image and video metrics) and --actions/NAME.json
(control). What is finished is kept in OUT/cache, so a stopped run carries on. Writes report.json, report.md and
report.html, which opens in any browser.
"""

import argparse
import pathlib

from converters.metrics import FOLDER, SOURCES, find_idm, load_networks
from mwjax.errors import InputError, command
from mwjax.evaluation.control import TASKS
from mwjax.evaluation.metrics import choose, groups
from mwjax.evaluation.report import Report, summary, write
from mwjax.evaluation.study import Study, evaluate, networks_of
from mwjax.runtime.compile_cache import keep_compiled


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m mwjax.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--videos",
        nargs="+",
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="folders of mp4 files, a row of the table each",
    )
    p.add_argument("--reference", type=pathlib.Path, metavar="DIR", help="real clips of the same names")
    p.add_argument(
        "--actions",
        type=pathlib.Path,
        metavar="DIR",
        help="what was asked for, NAME.json or .csv: a scene of the dataset, a list, or a record of mwjax.sample",
    )
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report"), help="(default: %(default)s)")
    p.add_argument("--metrics", nargs="+", choices=groups(), default=groups(), help="groups to compute (default: all)")
    p.add_argument(
        "--weights",
        type=pathlib.Path,
        default=FOLDER,
        metavar="DIR",
        help="networks of the metrics, from python -m converters metric "
        f"{{{','.join(SOURCES)}}} (default: %(default)s)",
    )
    p.add_argument(
        "--idm",
        default="vpt",
        help='inverse dynamics model: "vpt" (Minecraft, from --weights), "vizdoom" (shipped), or a folder '
        "(default: %(default)s)",
    )
    p.add_argument("--frames", type=int, default=0, help="use the first so many (default: as many as most videos have)")
    p.add_argument("--limit", type=int, default=500, help="at most so many videos, by name (default: %(default)s)")
    p.add_argument(
        "--tasks", choices=list(TASKS), default="matrix", help="of keyboard precision (default: %(default)s)"
    )
    p.add_argument(
        "--label-offset",
        type=int,
        choices=[0, 1],
        default=0,
        help="ask at frame i for what led there (0) or what follows (1) (default: %(default)s)",
    )
    p.add_argument(
        "--collisions",
        choices=["on", "off"],
        default="on",
        help="clear keys that a collision kept from acting, as in training (default: %(default)s)",
    )
    p.add_argument(
        "--conventional",
        action="store_true",
        help="PSNR as the mean over frames and LPIPS of pictures in [-1, 1], not as in the published table",
    )
    p.add_argument("--title", default="", help="of the report")
    return p


def titles(folders: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """A name for the row of each folder. Raises InputError for what is no folder, or if two names would be the same."""
    out = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--videos {folder} is not a folder")
        place = folder.resolve()
        inner = place.name in ("video", "videos") and place.parent.name
        title = place.parent.name if inner else place.name or "videos"
        if title in out:
            raise InputError(f"--videos {folder}: two rows would be called {title!r}; rename a folder")
        out[title] = folder
    return out


def score(args: argparse.Namespace) -> Report:
    """What the options ask for. Raises InputError, before anything is measured, for what cannot be."""
    idm = find_idm(args.idm)
    videos = titles(args.videos)
    for name in ("reference", "actions"):
        folder = getattr(args, name)
        if folder and not folder.is_dir():
            raise InputError(f"--{name} {folder} is not a folder")
    metrics = choose(args.metrics, tasks=args.tasks, conventional=args.conventional)
    needed = networks_of(metrics, reference=args.reference is not None, actions=args.actions is not None)
    networks, absent = load_networks(needed, idm=idm, folder=args.weights)
    study = Study(
        videos=videos,
        reference=args.reference,
        actions=args.actions,
        out=args.out,
        metrics=metrics,
        networks=networks,
        absent=absent,
        frames=args.frames,
        limit=args.limit,
        collisions=args.collisions == "on",
        label_offset=args.label_offset,
        title=args.title,
        about=f"Inverse dynamics model: {args.idm}; tasks: {args.tasks}.",
        settings={
            "weights": str(args.weights),
            "idm": args.idm,
            "tasks": args.tasks,
            "conventional": args.conventional,
        },
    )
    return evaluate(study)


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    keep_compiled()
    report = score(args)
    print(summary(report))
    print(f"wrote {', '.join(map(str, write(report, args.out)))}")


if __name__ == "__main__":
    main()
