"""Batches for training, by grain: shuffled, endless, the same for the same seed, resumable from their own state."""

import grain
import numpy as np
from tqdm import tqdm

from mwjax.data.clips import FRAMES_PER_LATENT, Clip, ClipConfig, cut_clip
from mwjax.data.latents import LatentSource
from mwjax.errors import InputError

# Arrays that are cut when a clip is: along latent time, along frames. All others belong to the clip as a whole.
ALONG_LATENTS = ("mean", "logvar", "first_frame")
ALONG_FRAMES = ("keyboard", "mouse")
SHORTEST = 65  # the fewest frames that a clip is cut to


def latent_batches(
    source: LatentSource,
    *,
    batch: int,
    seed: int,
    text_len: int,
    caption_dropout: float = 0.1,
    shorter: float = 0.0,
    part: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Batches of mean, logvar [b, t, h, w, z], text [b, text_len, c], keyboard [b, f, 7], mouse [b, f, 2].

    Of an image-conditioned model also image [b, i, e] and first_frame [b, t, h, w, z].

    With probability `caption_dropout` a clip's caption is the empty one; with probability `shorter` the clips of a
    batch are cut to one of the shorter 4n + 1 lengths down to SHORTEST.
    part: (i, n) gives the i-th of n equal parts of every batch, for process i of n. Batches, and the position in them
    that the iterator's state holds, are the same for any n.
    """
    empty = source.text("")
    shortest = (SHORTEST - 1) // FRAMES_PER_LATENT + 1

    def with_text(item: dict, rng: np.random.Generator) -> dict:
        text = empty if rng.random() < caption_dropout else item["text"]
        return item | {"text": np.pad(text, ((0, text_len - len(text)), (0, 0)))}

    def shortened(step: int, group: dict) -> dict:
        latents = group["mean"].shape[1]
        rng = np.random.default_rng((seed, step))
        if rng.random() >= shorter or shortest >= latents:
            return group
        return crop(group, int(rng.integers(shortest, latents)))

    index, count = part
    data = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(with_text)
    data = data.batch(batch // count, drop_remainder=True)[index::count].map_with_index(shortened)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def crop(group: dict[str, np.ndarray], latents: int) -> dict[str, np.ndarray]:
    """A batch cut to `latents` latents and the actions of their frames; as the VAE is causal, this cuts the clips."""
    frames = FRAMES_PER_LATENT * (latents - 1) + 1
    lengths = dict.fromkeys(ALONG_LATENTS, latents) | dict.fromkeys(ALONG_FRAMES, frames)
    return {name: array[:, : lengths[name]] if name in lengths else array for name, array in group.items()}


def pixel_batches(
    clips: list[Clip], *, batch: int, seed: int, config: ClipConfig, images: int = 0
) -> grain.DatasetIterator:
    """Batches of video uint8 [b, f, h, w, 3], mirrored at random: what a VAE is trained on.

    Damaged clips are reported and skipped. With `images`, as many single frames of each clip instead:
    [b, images, 1, h, w, 3].
    """
    if not clips:
        raise InputError("the data set lists no clips")

    def mirrored(item: dict, rng: np.random.Generator) -> dict:
        video = item["video"][:, :, ::-1] if rng.random() < 0.5 else item["video"]
        if images:
            video = video[rng.choice(len(video), images, replace=False), None]
        return {"video": video}

    data = grain.MapDataset.source(PixelSource(clips, config)).seed(seed).shuffle().repeat().random_map(mirrored)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8 * batch)
    return iter(data.to_iter_dataset(options).batch(batch, drop_remainder=True))


class PixelSource:
    """Random access to the videos of clips; None, which grain leaves out, for a damaged one."""

    def __init__(self, clips: list[Clip], config: ClipConfig):
        self.clips = clips
        self.config = config
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> dict[str, np.ndarray] | None:
        try:
            return {"video": cut_clip(self.clips[i], self.config)["video"]}
        except InputError as error:
            if i not in self._damaged:
                tqdm.write(f"left out clip {i} ({self.clips[i].name}): {error}")
            self._damaged.add(i)
            if len(self._damaged) == len(self.clips):
                raise InputError(f"none of the {len(self.clips)} clips could be read; the last: {error}") from None
            return None
