"""Frames of several videos as one picture.

python experiments/figures/contact_sheet.py OUT.png VIDEO.mp4 … [--frames 0 4 8 12 16]
"""

import argparse

import imageio.v3 as iio
import numpy as np

from mwjax.data.video import read_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="png file to write")
    parser.add_argument("videos", nargs="+", help="mp4 files, a row each")
    parser.add_argument("--frames", type=int, nargs="+", default=[0, 4, 8, 12, 16], help="columns")
    parser.add_argument("--shrink", type=int, default=2, help="keep every n-th pixel")
    args = parser.parse_args()
    rows = [
        np.concatenate([read_video(path)[i, :: args.shrink, :: args.shrink] for i in args.frames], 1)
        for path in args.videos
    ]
    iio.imwrite(args.out, np.concatenate(rows))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
