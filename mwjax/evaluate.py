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
from converters.evaluation import FOLDER, SHIPPED_IDM, SOURCES, WEIGHTS
from mwjax.compilation import keep_compiled
from mwjax.data.actions import Actions, from_scene, read_actions, timeline
from mwjax.data.clips import read_scene
from mwjax.data.hud import draw_hud, enlarge
from mwjax.data.video import Header, read_header, read_video, write_video
from mwjax.errors import InputError, command
from mwjax.evaluation import control
from mwjax.evaluation.measure import GROUPS, PARTS, Options, Values, fingerprint, identity, kept, load_networks, prefixes
from mwjax.evaluation.networks import amt, i3d
from mwjax.evaluation.report import Row, markdown, write
from mwjax.evaluation.scores import Metric, fvd_by_prefix, metrics, score, shuffled
from mwjax.pipeline import output_folder

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
    p.add_argument("--limit", type=int, default=500, help="at most so many videos, by name (default: %(default)s)")
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
    try:
        value = json.loads(path.read_text()) if path.suffix == ".json" else None
        if isinstance(value, dict) and isinstance(value.get("job"), dict):
            actions = read_actions(value["job"]["actions"])
        elif isinstance(value, dict):
            rows = read_scene(path)["actions"]
            actions = from_scene(rows, 0, 1 + max(map(int, rows)), collisions=collisions)
        else:
            actions = read_actions(str(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise InputError(f"{path} holds no actions that can be read ({type(error).__name__}: {error})") from None
    if len(actions[0]) < frames:
        raise InputError(f"{path} has actions for {len(actions[0])} frames, the video has {frames}")
    actions = tuple(a[:frames] for a in actions)
    buttons, camera = control.labels(actions, offset=offset)
    return {"asked_buttons": buttons, "asked_camera": camera}, actions


Headers = dict[pathlib.Path, Header | None]


def headers_of(folder: pathlib.Path, limit: int) -> Headers:
    """The header of every video of a folder, None where it cannot be read. Raises InputError if there is none to score."""
    paths = sorted(folder.glob("*.mp4"))[:limit]
    if not paths:
        raise InputError(f"--videos {folder} holds no .mp4 file" if folder.is_dir() else f"--videos {folder} is not a folder")
    headers = {path: read_header(path) for path in paths}
    if not any(headers.values()):
        raise InputError(f"--videos {folder}: none of the {len(paths)} files can be read")
    return headers


def alike(headers: Headers, frames: int, *, cut: bool) -> tuple[list[pathlib.Path], list[str]]:
    """(videos of the usual size with `frames` frames, why each of the others is left out). cut: longer ones will do."""
    usual = collections.Counter((h.height, h.width) for h in headers.values() if h).most_common(1)[0][0]
    good, excluded = [], []
    for path, header in headers.items():
        if not header:
            excluded.append(f"{path}: cannot be read")
        elif header.frames < frames or (header.frames > frames and not cut):
            excluded.append(f"{path}: {header.frames} frames, not {frames}")
        elif (header.height, header.width) != usual:
            excluded.append(f"{path}: {header.height}×{header.width}, the others are {usual[0]}×{usual[1]}")
        else:
            good.append(path)
    if not good:
        raise InputError(f"--videos {path.parent}: none of the {len(headers)} videos can be scored; {excluded[0]}")
    return good, excluded


def titles(folders: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """A name for the row of each folder. Raises InputError if two would be the same."""
    out = {}
    for folder in folders:
        place = folder.resolve()
        title = place.parent.name if place.name in ("video", "videos") and place.parent.name else place.name or "videos"
        if title in out or title in (REFERENCE, FIRST_FRAME):
            raise InputError(f"--videos {folder}: two rows would be called {title!r}; rename a folder")
        out[title] = folder
    return out


class Study:
    """One evaluation: measures folders one after the other, video by video, and keeps what is finished.

    networks: weights by name. names: of the PARTS to measure.
    """

    def __init__(self, args: argparse.Namespace, networks: dict, names: list[str], frames: int, excluded: list[str]):
        self.args, self.networks, self.names, self.frames, self.excluded = args, networks, names, frames, excluded
        self.identities = {name: identity(weights) for name, weights in networks.items()}
        self.options = Options(prefixes(frames), args.conventional)
        self.files: dict[tuple[str, str], str] = {}
        self.actions: dict[str, str] = {}

    def labels(self, name: str) -> tuple[Values, Actions | None]:
        if not self.args.actions:
            return {}, None
        return read_labels(self.args.actions / f"{name}.json", self.frames, collisions=self.args.collisions == "on", offset=self.args.label_offset)

    def row(self, title: str, paths: list[pathlib.Path], *, against: bool, change: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Values]:
        """Values of every video of a folder. against: with image metrics against the reference. change: what is measured instead of the frames."""
        out, before = {}, len(self.excluded)
        for path in tqdm(paths, desc=title, unit="clip"):
            try:
                asked, actions = self.labels(path.stem)
                out[path.stem] = self.measure(title, path, against, change) | asked
                self.show(title, path, actions, change)
            except InputError as error:
                out.pop(path.stem, None)
                self.excluded.append(f"{title}, {path.stem}: {error}")
        if not out:
            raise InputError(f"{title}: none of the {len(paths)} videos could be scored; the first: {self.excluded[before]}")
        return out

    def measure(self, title: str, path: pathlib.Path, against: bool, change) -> Values:
        """Everything that is measured on a video; it and its reference are read when first needed."""
        beside = self.args.reference / path.name if self.args.reference and against else None
        if beside and not beside.exists():
            raise InputError(f"{beside} is missing")
        pictures: dict[pathlib.Path, np.ndarray] = {}

        def frames_of(where: pathlib.Path) -> np.ndarray:
            if where not in pictures:
                pictures[where] = read_video(where, 0, self.frames)
            return pictures[where]

        values = {}
        for name in self.names:
            part = PARTS[name]
            if part.against and not beside:
                continue
            key = {"video": fingerprint(path), "frames": self.frames, "network": self.identities.get(part.network), "changed": bool(change)}
            key |= {"reference": fingerprint(beside)} if part.against else {}
            key |= {"rescaled": self.options.rescaled} if name == "lpips" else {}

            def run(part=part):
                frames = frames_of(path)
                against = frames_of(beside) if part.against else None
                return part.run(self.networks.get(part.network), change(frames) if change else frames, against, self.options)

            values |= kept(self.args.out / "cache" / title / f"{path.stem}.{name}.npz", key, run)
        return values

    def show(self, title: str, path: pathlib.Path, actions: Actions | None, change) -> None:
        """A copy of the video with the keys drawn on, for the page."""
        if actions:
            self.actions[path.stem] = "; ".join(" ".join(line.split()[4:]) for line in timeline(*actions).splitlines()[:-1])[:80]
        if change:
            self.files[title, path.stem] = ""
            return
        target = self.args.out / "videos" / title / path.name
        self.files[title, path.stem] = str(target.relative_to(self.args.out))
        asked = np.concatenate(actions, 1) if actions else np.zeros(0)

        def draw() -> Values:
            header = read_header(path)
            frames = read_video(path, 0, self.frames)
            frames = enlarge(frames, max(1, 240 // frames.shape[1]))
            frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
            write_video(target, draw_hud(frames, *actions) if actions else frames, fps=header.fps if header and header.fps else 16, crf=20)
            return {}

        if not target.exists():
            (self.args.out / "cache" / title / f"{path.stem}.shown.npz").unlink(missing_ok=True)
        kept(self.args.out / "cache" / title / f"{path.stem}.shown.npz", {"video": fingerprint(path), "frames": self.frames, "asked": asked.tolist()}, draw)


def check(args: argparse.Namespace) -> pathlib.Path | None:
    """Whether the options make sense; the folder of the inverse dynamics model, None for VPT's. Raises InputError."""
    for name in ("frames", "limit"):
        if getattr(args, name) < (name == "limit"):
            raise InputError(f"--{name} {getattr(args, name)} must be {'at least 1' if name == 'limit' else '0 (as many as most have) or more'}")
    for name in ("reference", "actions"):
        if getattr(args, name) and not getattr(args, name).is_dir():
            raise InputError(f"--{name} {getattr(args, name)} is not a folder")
    idm = {"vpt": None, "vizdoom": SHIPPED_IDM}.get(args.idm, pathlib.Path(args.idm))
    if idm and not ((idm / "config.json").exists() and (idm / WEIGHTS).exists()):
        raise InputError(f"--idm {args.idm} is neither vpt, vizdoom nor a folder with config.json and {WEIGHTS} of an inverse dynamics model")
    return idm


def not_computed(args: argparse.Namespace, chosen: tuple[Metric, ...], absent: dict[str, str], frames: int, least: int) -> list[str]:
    """A line for everything that was asked for and cannot be computed, with what would change that. least: pixels of the shortest side."""
    titles_of = lambda *names: ", ".join(m.title for m in chosen if m.part in names)
    parts = {m.part for m in chosen}
    out = [f"{titles_of(*(p for p in parts if PARTS[p].network == name))}: needs {SOURCES[name].what}; get it with: {how}" for name, how in absent.items()]
    compared = [p for p in ("frames", "lpips", "fvd") if p in parts]
    if compared and not args.reference:
        out.append(f"{titles_of(*compared)}: need --reference")
    if "control" in parts and not args.actions:
        out.append("keyboard and camera precision: need --actions")
    if "smoothness" in parts and "amt" not in absent and (least < amt.LEAST_SIDE or frames < 3):
        out.append(f"motion smoothness: needs 3 frames of at least {amt.LEAST_SIDE}×{amt.LEAST_SIDE} pixels, there are {frames} of {least} and more")
    if "fvd" in parts and "i3d" not in absent and frames < 16:
        out.append(f"FVD: needs {i3d.LEAST_FRAMES} frames (16 for that of 16), these have {frames}")
    return out


def evaluate(args: argparse.Namespace) -> list[Row]:
    """Score the folders of `args` (see `parser`), write the report and return its rows. Raises InputError before anything is measured for what is wrong."""
    idm = check(args)
    folders = {title: headers_of(folder, args.limit) for title, folder in titles(args.videos).items()}
    readable = [header for headers in folders.values() for header in headers.values() if header]
    frames = args.frames or collections.Counter(header.frames for header in readable).most_common(1)[0][0]
    chosen_videos = {title: alike(headers, frames, cut=bool(args.frames)) for title, headers in folders.items()}
    excluded = [line for _, lines in chosen_videos.values() for line in lines]
    chosen = tuple(m for m in metrics(tasks=args.tasks, conventional=args.conventional) if PARTS[m.part].group in args.metrics)
    possible = {"control": args.actions, "frames": args.reference, "lpips": args.reference, "fvd": args.reference}
    names = [name for name in dict.fromkeys(m.part for m in chosen) if possible.get(name, True)]
    networks, absent = load_networks({PARTS[name].network for name in names} - {""}, idm=idm, folder=args.weights)
    missing = not_computed(args, chosen, absent, frames, min(min(header.height, header.width) for header in readable))
    if all(PARTS[name].network in absent for name in names):
        raise InputError(f"nothing that --metrics {' '.join(args.metrics)} asks for can be computed; {missing[0]}")
    output_folder(args.out)
    study = Study(args, networks, [name for name in names if PARTS[name].network not in absent], frames, excluded)
    measured = {title: study.row(title, paths, against=True) for title, (paths, _) in chosen_videos.items()}
    reference: dict[str, Values] = {}
    if args.reference:
        paths = [args.reference / f"{name}.mp4" for name in dict.fromkeys(name for row in measured.values() for name in row)]
        reference = study.row(REFERENCE, paths, against=False)
        measured[FIRST_FRAME] = study.row(FIRST_FRAME, paths, against=True, change=lambda frames: np.repeat(frames[:1], len(frames), 0))
        measured[REFERENCE] = reference
    rows = []
    for title, videos in measured.items():
        others = [reference[name] for name in videos if name in reference] if title != REFERENCE else []
        scores = {m.key: s for m in chosen if (s := score(m, list(videos.values()), others)) is not None}
        rows.append(Row(title, videos, scores, fvd_by_prefix(list(videos.values()), others)))
        if "control" in study.names and title in folders and len(videos) > 1:
            other = dict(zip(videos, shuffled(list(videos.values())), strict=True))
            rows.append(Row(SHUFFLED.format(title), other, {m.key: s for m in chosen if m.part == "control" and (s := score(m, list(other.values()))) is not None}, []))
            study.files |= {(rows[-1].name, name): "" for name in other}
    settings = {name: str(value) if isinstance(value, pathlib.Path) else [str(v) for v in value] if isinstance(value, list) else value
                for name, value in vars(args).items()} | {"frames": frames, "mwjax": mwjax.__version__, "jax": jax.__version__}  # fmt: skip
    count = sum(len(measured[title]) for title in folders)
    about = f"{count} videos of {frames} frames; {len(study.excluded)} left out. Inverse dynamics model: {args.idm}; tasks: {args.tasks}."
    paths = write(args.out, rows, chosen, title=args.title or f"Evaluation of {', '.join(folders)}", about=about, tasks=control.TASKS[args.tasks], files=study.files,
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
