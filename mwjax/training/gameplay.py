"""What is learnt from: a data set's clips as pixels, or as latents that are computed once."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import jax

from mwjax.data.clips import Clip
from mwjax.data.latents import ClipConfig, Encoders, LatentSource, Share, encode_dataset
from mwjax.data.loader import latent_batches, pixel_batches
from mwjax.data.tokenizer import report_cut
from mwjax.encoding import embed, encode_images, encode_pixels, encoders_identity, text_identity
from mwjax.models.model import Model

ENCODED_TOGETHER = 8  # clips, or as many as there are devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gameplay:
    """clips: of the data set. config: how they are cut. cache: folder of the latents. share: this process's share of
    the work. devices: of this process, which encode."""

    clips: list[Clip]
    config: ClipConfig
    cache: pathlib.Path
    share: Share
    devices: jax.sharding.Mesh

    def pixel_batches(self, *, batch: int, seed: int, images: int = 0) -> Iterator[dict]:
        """Of uint8 video; see `mwjax.data.loader.pixel_batches`."""
        return pixel_batches(self.clips, batch=batch, seed=seed, config=self.config, images=images)

    def encode(self, model: Model) -> pathlib.Path:
        """Fill the cache with what the model's encoders make of the clips; what is there already is kept."""
        image = None
        if model.image_encoder:
            image = functools.partial(encode_images, model, frames=self.config.frames)
        text = functools.partial(embed, model, report=False)
        if self.share.process == 0:  # once for all captions
            length = model.transformer.config.backbone.text_len
            report_cut(model.tokenizer, [clip.prompt for clip in self.clips], length)
        encoders = Encoders(functools.partial(encode_pixels, model), text, image, text_identity(model))
        with jax.set_mesh(self.devices):
            return encode_dataset(
                self.clips,
                self.cache,
                config=self.config,
                identity=encoders_identity(model, ("vae", "image_encoder")),
                encoders=encoders,
                share=self.share,
                batch=max(ENCODED_TOGETHER, self.devices.size),
            )

    def latent_batches(
        self, *, model: Model, batch: int, seed: int, caption_dropout: float, shorter: float
    ) -> Iterator[dict]:
        """Of latents and the model's inputs, encoded first; see `mwjax.data.loader.latent_batches`."""
        return latent_batches(
            LatentSource(self.encode(model)),
            batch=batch,
            seed=seed,
            text_len=model.transformer.config.backbone.text_len,
            caption_dropout=caption_dropout,
            shorter=shorter,
            part=self.share[:2],
        )
