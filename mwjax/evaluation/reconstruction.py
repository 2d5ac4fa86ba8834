"""How much the autoencoder keeps: PSNR of its reconstructions, beside a linear baseline of the same size.

    python -m mwjax.evaluation.reconstruction --model tiny --fit TRAIN_DATASET --dataset TEST_DATASET

The baseline keeps as many principal components of every 4×8×8 block of pixels as the latents have channels.
"""

import argparse

import jax
import numpy as np
from tqdm import tqdm

from mwjax.data.clips import load_clip, read_table, to_pixels
from mwjax.errors import InputError, command
from mwjax.evaluation.visual import psnr

BLOCK = (4, 8, 8)


def blocks(video: np.ndarray) -> np.ndarray:
    """Pixels [f, h, w, 3] without the first frame, as rows of 4×8×8×3 values."""
    t, h, w = ((n - d) // b for n, d, b in zip(video.shape, (1, 0, 0), BLOCK, strict=False))
    cut = video[1 : 1 + t * 4].reshape(t, 4, h, 8, w, 8, 3)
    return cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t * h * w, -1)


def principal_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, components [count, values]) of rows."""
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    return mean, vectors[:, ::-1][:, :count].T


def load_videos(folder: str, frames: int, height: int, width: int, shrink: int, limit: int) -> list[np.ndarray]:
    """Up to `limit` clips spread over a dataset, in [-1, 1]."""
    clips = [c for c in read_table(folder) if c.frames >= frames]
    if not clips:
        raise InputError(f"{folder} has no clip of {frames} frames")
    picks = clips[:: max(1, len(clips) // limit)][:limit]
    return [to_pixels(load_clip(c, height=height, width=width, shrink=shrink)["video"][:frames]) for c in tqdm(picks, desc=f"reading {folder}", unit="clip")]


@command
def main(argv: list[str] | None = None) -> None:
    from converters.folder import load_model
    from mwjax.models.vae import VAE

    parser = argparse.ArgumentParser(prog="python -m mwjax.evaluation.reconstruction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="model folder (default: the shipped one)")
    parser.add_argument("--dataset", required=True, nargs="+", help="datasets to measure on")
    parser.add_argument("--fit", required=True, help="dataset to fit the linear baseline to")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--shrink", type=int, default=2)
    parser.add_argument("--clips", type=int, default=100, help="clips per dataset")
    args = parser.parse_args(argv)
    model = load_model(args.model)
    network = VAE(model.vae)

    @jax.jit
    def reconstruct(params, video):
        (mean, _), _ = network.apply({"params": params}, video[None], method="encode", mutable=["cache"])
        frames, _ = network.apply({"params": params}, mean, method="decode", mutable=["cache"])
        return frames[0].clip(-1, 1), mean

    options = (args.frames, args.height, args.width, args.shrink)
    mean, components = principal_components(np.concatenate([blocks(v) for v in load_videos(args.fit, *options, args.clips)]), model.vae.z_dim)
    print("| dataset | linear baseline | VAE | VAE without the first frame | latent mean, deviation |\n|---|---|---|---|---|")
    for folder in args.dataset:
        errors, latents = [], []
        for video in load_videos(folder, *options, args.clips):
            rows = blocks(video) - mean
            frames, code = map(np.asarray, reconstruct(model.vae_params, video))
            linear = np.mean((rows - rows @ components.T @ components) ** 2)
            errors.append((linear, np.mean((frames - video) ** 2), np.mean((frames - video)[1:] ** 2)))
            latents.append(code.reshape(-1, code.shape[-1]))
        cells = " | ".join(f"{psnr(e, peak=2.0):.1f} dB" for e in np.mean(errors, 0))
        latents = np.concatenate(latents)
        print(f"| {folder} | {cells} | {np.abs(latents.mean(0)).max():.2f}, {latents.std(0).min():.2f} to {latents.std(0).max():.2f} |")


if __name__ == "__main__":
    main()
