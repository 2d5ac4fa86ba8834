"""Score a folder of generated clips: python -m mwjax.evaluate --videos DIR --reference DIR --actions DIR --out report/

Every `NAME.mp4` of --videos is held against --reference/NAME.mp4 (image and video metrics) and --actions/NAME.json (control). What is
finished is kept in OUT/cache, so a stopped run carries on. Writes report.json, report.md and report.html, which opens in any browser.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

import mwjax
from converters.evaluation import FOLDER, SHIPPED_IDM, SOURCES
from mwjax.compilation import keep_compiled
from mwjax.data.actions import Actions, from_scene, read_actions, timeline
from mwjax.data.clips import read_scene
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.video import read_video, video_size, write_video
from mwjax.errors import InputError, command
from mwjax.evaluation import control
from mwjax.evaluation.measure import NETWORKS, Tools, Values, fingerprint, kept, load_tools, measure
from mwjax.evaluation.networks import amt, i3d
from mwjax.evaluation.report import Row, markdown, write
from mwjax.evaluation.scores import metrics, score, shuffled
from mwjax.pipeline import output_folder

GROUPS = {"control": ("idm",), "visual": ("lpips",), "video": ("i3d",), "temporal": ("clip", "amt")}
FIRST_FRAME, REFERENCE, SHUFFLED = "first frame repeated", "reference", "{}, shuffled actions"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m mwjax.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--videos", nargs="+", type=pathlib.Path, required=True, metavar="DIR", help="folders of mp4 files, a row of the table each")
    p.add_argument("--reference", type=pathlib.Path, metavar="DIR", help="real clips of the same names")
    p.add_argument("--actions", type=pathlib.Path, metavar="DIR",
                   help="what was asked for, NAME.json or .csv: a scene of the dataset, an action list, or what mwjax.sample wrote")  # fmt: skip
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report"), help="(default: %(default)s)")
    p.add_argument("--metrics", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="groups to compute (default: all)")
    p.add_argument("--weights", type=pathlib.Path, default=FOLDER, metavar="DIR",
                   help=f"networks of the metrics, from python -m converters metric {{{','.join(SOURCES)}}} (default: %(default)s)")  # fmt: skip
    p.add_argument("--idm", default="vpt", help='inverse dynamics model: "vpt" (Minecraft, from --weights), "vizdoom" (shipped), or a folder (default: %(default)s)')
    p.add_argument("--frames", type=int, default=0, help="use the first so many frames (default: as many as most videos have)")
    p.add_argument("--limit", type=int, default=500, help="videos, by name (default: %(default)s)")
    p.add_argument("--tasks", choices=list(control.TASKS), default="matrix", help="task set of keyboard precision (default: %(default)s)")
    p.add_argument("--label-offset", type=int, choices=[0, 1], default=0, help="ask at frame i for what led there (0) or what follows (1) (default: %(default)s)")
    p.add_argument("--collisions", choices=["on", "off"], default="on", help="clear keys that a collision kept from acting, as in training (default: %(default)s)")
    p.add_argument("--conventional", action="store_true", help="PSNR as the mean over frames and LPIPS of pictures in [-1, 1], not as the published table")
    p.add_argument("--title", default="", help="of the report")
    return p


def read_labels(path: pathlib.Path, frames: int, *, collisions: bool, offset: int) -> tuple[Values, Actions]:
    """What was asked for: {asked_buttons, asked_camera}, and the actions themselves. Raises InputError for what is missing, damaged or too short."""
    path = path if path.exists() else path.with_suffix(".csv")
    if not path.exists():
        raise InputError(f"{path.with_suffix('.json')} is missing")
    actions: Actions | None = None
    if path.suffix == ".json":
        try:
            value = json.loads(path.read_text())
        except (ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error})") from None
        if isinstance(value, dict) and isinstance(value.get("job"), dict):
            actions = read_actions(value["job"]["actions"])
        elif isinstance(value, dict):
            rows = read_scene(path)["actions"]
            if (last := max(map(int, rows), default=-1)) < frames - 1:
                raise InputError(f"{path} ends with frame {last}, the video has {frames}")
            actions = from_scene(rows, 0, frames, collisions=collisions)
    actions = actions or read_actions(str(path))
    if len(actions[0]) < frames:
        raise InputError(f"{path} has actions for {len(actions[0])} frames, the video has {frames}")
    actions = tuple(a[:frames] for a in actions)
    buttons, camera = control.labels(actions, offset=offset)
    return {"asked_buttons": buttons, "asked_camera": camera}, actions


def usual(folder: pathlib.Path, limit: int, frames: int) -> tuple[list[pathlib.Path], tuple[int, int, int], list[str]]:
    """(videos, (frames, height, width) that most have, why each of the others is left out)."""
    paths = sorted(folder.glob("*.mp4"))[:limit]
    if not paths:
        raise InputError(f"--videos {folder} holds no .mp4 file" if folder.is_dir() else f"--videos {folder} is not a folder")
    sizes, excluded = {}, []
    for path in paths:
        size = video_size(path)
        if size[0]:
            sizes[path] = size
        else:
            excluded.append(f"{path}: cannot be read")
    if not sizes:
        raise InputError(f"--videos {folder}: none of the {len(paths)} files can be read")
    count = frames or collections.Counter(size[0] for size in sizes.values()).most_common(1)[0][0]
    area = collections.Counter(size[1:] for size in sizes.values()).most_common(1)[0][0]
    good = []
    for path, (length, *shape) in sizes.items():
        if length < count or (length > count and not frames):
            excluded.append(f"{path}: {length} frames, the others have {count}")
        elif tuple(shape) != area:
            excluded.append(f"{path}: {shape[0]}×{shape[1]}, the others are {area[0]}×{area[1]}")
        else:
            good.append(path)
    return good, (count, *area), excluded


class Study:
    """One evaluation: measures folders one after the other, video by video, and writes the report."""

    def __init__(self, args: argparse.Namespace, tools: Tools, frames: int, excluded: list[str]):
        self.args, self.tools, self.frames, self.excluded = args, tools, frames, excluded
        self.files: dict[tuple[str, str], str] = {}
        self.actions: dict[str, str] = {}

    def labels(self, name: str) -> tuple[Values, Actions | None]:
        if not self.args.actions:
            return {}, None
        return read_labels(self.args.actions / f"{name}.json", self.frames, collisions=self.args.collisions == "on", offset=self.args.label_offset)

    def row(self, title: str, paths: list[pathlib.Path], *, against: bool, change: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Values]:
        """Values of every video of a folder. against: with image metrics against the reference. change: what is measured instead of the frames."""
        out = {}
        for path in tqdm(paths, desc=title, unit="clip"):
            name = path.stem
            beside = self.args.reference / path.name if self.args.reference and against else None
            try:
                if beside and not beside.exists():
                    raise InputError(f"{beside} is missing")
                asked, actions = self.labels(name)
                key = {"video": fingerprint(path), "reference": beside and fingerprint(beside), "frames": self.frames, "tools": self.tools.identity}
                values = kept(self.args.out / "cache" / title / f"{name}.npz", key, lambda path=path, beside=beside: self.measure(path, beside, change))
                self.show(title, path, actions, change)
            except InputError as error:
                self.excluded.append(f"{title}, {name}: {error}")
                continue
            out[name] = values | asked
        if not out:
            raise InputError(f"{title}: none of the {len(paths)} videos could be scored; the first: {next((e for e in self.excluded if e.startswith(title)), '')}")
        return out

    def measure(self, path: pathlib.Path, beside: pathlib.Path | None, change) -> Values:
        frames = read_video(path, 0, self.frames)
        return measure(self.tools, change(frames) if change else frames, read_video(beside, 0, self.frames) if beside else None)

    def show(self, title: str, path: pathlib.Path, actions: Actions | None, change) -> None:
        """A copy of the video with the keys drawn on, for the page."""
        if change:
            return
        target = self.args.out / "videos" / title / path.name
        self.files[title, path.stem] = str(target.relative_to(self.args.out))
        if actions:
            self.actions[path.stem] = "; ".join(" ".join(line.split()[4:]) for line in timeline(*actions).splitlines()[:-1])[:80]
        if target.exists() and target.stat().st_mtime_ns > path.stat().st_mtime_ns:
            return
        frames = read_video(path, 0, self.frames)
        frames = enlarge(frames, max(1, 240 // frames.shape[1]))
        frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
        write_video(target, draw_hud(frames, *actions) if actions else frames, fps=12, crf=20)


def evaluate(args: argparse.Namespace) -> list[Row]:
    """Score the folders of `args` (see `parser`), write the report and return its rows. Raises InputError before anything is measured for what is wrong."""
    for name in ("reference", "actions"):
        if getattr(args, name) and not getattr(args, name).is_dir():
            raise InputError(f"--{name} {getattr(args, name)} is not a folder")
    idm = {"vpt": None, "vizdoom": SHIPPED_IDM}.get(args.idm, pathlib.Path(args.idm))
    if idm and not (idm / "config.json").exists():
        raise InputError(f"--idm {args.idm} is neither vpt, vizdoom nor a folder of an inverse dynamics model ({idm / 'config.json'} is missing)")
    folders, frames, size, excluded = {}, args.frames, (0, 0), []
    for folder in args.videos:
        title = folder.name if folder.name != "video" and folder.name != "videos" else folder.parent.name or folder.name
        if title in folders or title in (REFERENCE, FIRST_FRAME):
            raise InputError(f"--videos {folder}: two rows would be called {title}; rename a folder")
        folders[title], (frames, *size), left_out = usual(folder, args.limit, frames)
        excluded += left_out
    output_folder(args.out)
    wanted = [name for group in args.metrics for name in GROUPS[group]]
    wanted = [n for n in NETWORKS if n in wanted and not (n == "idm" and not args.actions) and not (n in ("lpips", "i3d") and not args.reference)]
    tools, absent = load_tools(idm=idm, folder=args.weights, names=tuple(wanted), frames=frames, rescaled=args.conventional)
    chosen = metrics(tasks=args.tasks, conventional=args.conventional)
    missing = [f"{', '.join(m.title for m in chosen if m.network == name)}: needs {SOURCES[name].what}; get it with: {how}" for name, how in absent.items()]
    if not args.reference:
        missing.append("PSNR, SSIM, LPIPS, FVD: need --reference")
    if not args.actions:
        missing.append("keyboard and camera precision: need --actions")
    if "amt" in tools.networks and min(size) < amt.LEAST_SIDE:
        missing.append(f"motion smoothness: needs pictures of at least {amt.LEAST_SIDE}×{amt.LEAST_SIDE} pixels, these have {size[0]}×{size[1]}")
    if "i3d" in tools.networks and frames < i3d.LEAST_FRAMES:
        missing.append(f"FVD: needs {i3d.LEAST_FRAMES} frames, these have {frames}")
    study = Study(args, tools, frames, excluded)
    measured = {title: study.row(title, paths, against=True) for title, paths in folders.items()}
    reference: dict[str, Values] = {}
    if args.reference:
        names = dict.fromkeys(name for row in measured.values() for name in row)
        paths = [args.reference / f"{name}.mp4" for name in names]
        reference = study.row(REFERENCE, paths, against=False)
        measured[FIRST_FRAME] = study.row(FIRST_FRAME, paths, against=True, change=lambda frames: np.repeat(frames[:1], len(frames), 0))
        measured[REFERENCE] = reference
    rows = []
    for title, videos in measured.items():
        compared = title != REFERENCE
        scores = {m.key: s for m in chosen if (compared or not m.key.startswith("fvd"))
                  and (s := score(m, list(videos.values()), list(reference.values()))) is not None}  # fmt: skip
        rows.append(Row(title, videos, scores))
        if args.actions and "idm" in tools.networks and title in folders and len(videos) > 1:
            other = shuffled(list(videos.values()))
            rows.append(Row(SHUFFLED.format(title), {}, {m.key: s for m in chosen if m.network == "idm" and (s := score(m, other)) is not None}))
    settings = {name: str(value) if isinstance(value, pathlib.Path) else [str(v) for v in value] if isinstance(value, list) else value
                for name, value in vars(args).items()} | {"frames": frames, "mwjax": mwjax.__version__, "jax": jax.__version__}  # fmt: skip
    count = sum(len(row) for title, row in measured.items() if title in folders)
    about = f"{count} videos of {frames} frames; {len(study.excluded)} left out. Inverse dynamics model: {args.idm}; tasks: {args.tasks}."
    paths = write(args.out, rows, chosen, title=args.title or f"Evaluation of {', '.join(folders)}", about=about, tasks=control.TASKS["keys"], files=study.files,
                  actions=study.actions, absent=missing, excluded=study.excluded, settings=settings)  # fmt: skip
    print(markdown(rows, chosen, published=False))
    for line in [f"not computed: {m}" for m in missing] + [f"left out: {e}" for e in study.excluded]:
        print(line)
    print(f"wrote {', '.join(map(str, paths))}")
    return rows


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    keep_compiled()
    with jax.default_matmul_precision("highest"):
        evaluate(args)


if __name__ == "__main__":
    main()
