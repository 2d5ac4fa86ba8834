"""How much the autoencoder keeps: PSNR of its reconstructions, beside a linear baseline of the same size.

    python -m mwjax.reconstruction --model tiny --fit TRAIN_DATASET --dataset TEST_DATASET

The baseline keeps as many principal components of every block of pixels that one latent stands for (4×8×8 of Wan2.1's
autoencoder) as the latents have channels.
"""

import argparse
from collections.abc import Callable, Sequence

import jax
import numpy as np
from tqdm import tqdm

from converters.folder import load_model
from mwjax.data.clips import load_clip, read_table, to_pixels
from mwjax.errors import InputError, command
from mwjax.evaluation.metrics.psnr_ssim import psnr
from mwjax.models.vae import VAE, VAEConfig
from mwjax.types import Array, Float

HEAD = (
    "| dataset | linear baseline | VAE | VAE without the first frame | latent mean, deviation |\n|---|---|---|---|---|"
)


def blocks(video: Float[np.ndarray, "f h w 3"], cfg: VAEConfig) -> Float[np.ndarray, "blocks values"]:
    """The pixels of a clip without its first frame, as rows: all that belong to one latent."""
    time, side = cfg.temporal_stride, cfg.spatial_stride
    t, h, w = (video.shape[0] - 1) // time, video.shape[1] // side, video.shape[2] // side
    cut = video[1 : 1 + t * time].reshape(t, time, h, side, w, side, 3)
    return cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t * h * w, -1)


def principal_components(
    rows: Float[np.ndarray, "n values"], count: int
) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, "count values"]]:
    """(mean, components) of rows."""
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    return mean, vectors[:, ::-1][:, :count].T


def load_videos(folder: str, args: argparse.Namespace) -> list[Float[np.ndarray, "f h w 3"]]:
    """Up to --clips clips spread over a dataset, in [-1, 1]."""
    clips = [clip for clip in read_table(folder) if clip.frames >= args.frames]
    if not clips:
        raise InputError(f"{folder} has no clip of {args.frames} frames")
    picks = clips[:: max(1, len(clips) // args.clips)][: args.clips]
    videos = []
    for clip in tqdm(picks, desc=f"reading {folder}", unit="clip"):
        item = load_clip(clip, height=args.height, width=args.width, shrink=args.shrink)
        videos.append(to_pixels(item["video"][: args.frames]))
    return videos


def reconstruction(cfg: VAEConfig) -> Callable[[dict, Float[Array, "f h w 3"]], tuple[Array, Array]]:
    """A function of parameters and a clip: (the clip as it comes back, mean of its latents)."""
    network = VAE(cfg)

    @jax.jit
    def run(params: dict, video: Float[Array, "f h w 3"]) -> tuple[Array, Array]:
        (mean, _), _ = network.apply({"params": params}, video[None], method="encode", mutable=["cache"])
        frames, _ = network.apply({"params": params}, mean, method="decode", mutable=["cache"])
        return frames[0].clip(-1, 1), mean

    return run


def measured(videos: Sequence[np.ndarray], autoencode: Callable, linear: Callable) -> tuple[list[float], np.ndarray]:
    """(mean squared errors: of the baseline, of the autoencoder, of that without the first frame; latents [n, z]).

    autoencode(video): the clip as it comes back, and its latents. linear(video): squared error of the baseline.
    """
    errors, latents = [], []
    for video in videos:
        frames, code = map(np.asarray, autoencode(video))
        errors.append((linear(video), np.mean((frames - video) ** 2), np.mean((frames - video)[1:] ** 2)))
        latents.append(code.reshape(-1, code.shape[-1]))
    return np.mean(errors, 0).tolist(), np.concatenate(latents)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m mwjax.reconstruction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", default="tiny", help="model folder (default: the shipped one)")
    p.add_argument("--dataset", required=True, nargs="+", help="datasets to measure on")
    p.add_argument("--fit", required=True, help="dataset to fit the linear baseline to")
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--height", type=int, default=48)
    p.add_argument("--width", type=int, default=80)
    p.add_argument("--shrink", type=int, default=2)
    p.add_argument("--clips", type=int, default=100, help="clips per dataset")
    return p


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    cfg, params = load_model(args.model).vae
    run = reconstruction(cfg)
    fitted = np.concatenate([blocks(video, cfg) for video in load_videos(args.fit, args)])
    mean, components = principal_components(fitted, cfg.z_dim)

    def linear(video: np.ndarray) -> float:
        rows = blocks(video, cfg) - mean
        return float(np.mean((rows - rows @ components.T @ components) ** 2))

    print(HEAD)
    for folder in args.dataset:
        errors, latents = measured(load_videos(folder, args), lambda video: run(params, video), linear)
        cells = " | ".join(f"{psnr(error, peak=2.0):.1f} dB" for error in errors)
        mean_off, deviation = np.abs(latents.mean(0)).max(), latents.std(0)
        print(f"| {folder} | {cells} | {mean_off:.2f}, {deviation.min():.2f} to {deviation.max():.2f} |")


if __name__ == "__main__":
    main()
