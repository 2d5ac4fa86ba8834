"""Batches for training, by grain: shuffled, endless, the same for the same seed, resumable from their own state."""

import dataclasses

import grain
import numpy as np
from tqdm import tqdm

from mwjax.data.clips import Clip, load_clip
from mwjax.data.latents import Framing, LatentSource
from mwjax.errors import InputError


def latent_batches(
    source: LatentSource, *, batch: int, seed: int, text_len: int, caption_dropout: float = 0.1, shorter: float = 0.0, shortest: int = 65,
    part: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:  # fmt: skip
    """Batches of mean, logvar [b, t, h, w, z], text [b, text_len, c], keyboard [b, f, 7], mouse [b, f, 2].

    Of an image-conditioned model also image [b, i, e] and condition [b, t, h, w, z].

    With probability `caption_dropout` a clip's caption is the empty one; with probability `shorter` the clips of a batch are
    cut to one of the shorter 4n + 1 lengths down to `shortest` (the VAE is causal, so cutting latents cuts the clip).
    part: (i, n) gives the i-th of n equal parts of every batch, for process i of n. Batches, and the position in them that the
    iterator's state holds, are the same for any n.
    """
    empty = source.text("")

    def element(item: dict, rng: np.random.Generator) -> dict:
        text = empty if rng.random() < caption_dropout else item["text"]
        return item | {"text": np.pad(text, ((0, text_len - len(text)), (0, 0)))}

    def crop(step: int, group: dict) -> dict:
        latents, rng = group["mean"].shape[1], np.random.default_rng((seed, step))
        least = (shortest - 1) // 4 + 1
        if rng.random() >= shorter or least >= latents:
            return group
        keep = int(rng.integers(least, latents))
        rows = 4 * keep - 3
        return group | {k: group[k][:, :keep] for k in ("mean", "logvar", "condition") if k in group} | {k: group[k][:, :rows] for k in ("keyboard", "mouse")}

    data = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(element)
    index, count = part
    data = data.batch(batch // count, drop_remainder=True)[index::count].map_with_index(crop)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def pixel_batches(clips: list[Clip], *, batch: int, seed: int, framing: Framing, images: int = 0) -> grain.DatasetIterator:
    """Batches of video uint8 [b, f, h, w, 3], mirrored at random: what a VAE is trained on. Damaged clips are reported and skipped.

    With `images`, as many single frames of each clip instead: [b, images, 1, h, w, 3].
    """
    if not clips:
        raise InputError("the data set lists no clips")
    damaged: set[int] = set()

    class Source:
        def __len__(self) -> int:
            return len(clips)

        def __getitem__(self, i: int) -> dict[str, np.ndarray] | None:  # grain leaves out None
            cut = dataclasses.replace(clips[i], end=clips[i].start + framing.frames - 1)
            try:
                return {"video": load_clip(cut, height=framing.height, width=framing.width, shrink=framing.shrink)["video"]}
            except InputError as error:
                if i not in damaged:
                    tqdm.write(f"left out clip {i} ({clips[i].name}): {error}")
                damaged.add(i)
                if len(damaged) == len(clips):
                    raise InputError(f"none of the {len(clips)} clips could be read; the last: {error}") from None
                return None

    def mirror(item: dict, rng: np.random.Generator) -> dict:
        video = item["video"][:, :, ::-1] if rng.random() < 0.5 else item["video"]
        if images:
            video = video[rng.choice(len(video), images, replace=False), None]
        return {"video": video}

    data = grain.MapDataset.source(Source()).seed(seed).shuffle().repeat().random_map(mirror)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8 * batch)).batch(batch, drop_remainder=True))
