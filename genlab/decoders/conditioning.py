"""Conditioning: who speaks and what is said, encoded once and in the same way for every family.

In: a `Cond` batch. Out: `Conditions`: features that are added to the decoder's frames, and encoded
text for the backbone. Semantic content is one unit per frame; text is symbols without alignment.
Both pass the same short-range encoder (ConvNeXt blocks), so a causal decoder knows the content of
the frame it predicts and of a few frames after it. The bidirectional families see all units of the
clip; `units_route` prefix or cross gives a causal one the same reach. Dropped
conditions are replaced by an index of their own in each table, which is what classifier-free
guidance (2207.12598) contrasts with.

Text has no alignment, so every frame and every symbol also carries its relative place in the clip
and in the text (sinusoids of 0 to 1): a causal decoder then knows how much is left to say, which
the others see from the padding.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError, added
from genlab.config.errors import shorten
from genlab.data.text import has_symbols
from genlab.decoders.parts import AnyPart, TellPart, check_names
from genlab.machine.sharding import BATCH, constrain
from genlab.nets.backbone import BackboneConfig, TextRoute
from genlab.nets.blocks import ConvBlock
from genlab.nets.context import Text
from genlab.nets.linear import Embedding
from genlab.tokens import AnyArray, Cond

PART_KEYS = 2**16


class CondVocab(Config):
    """How many different conditions a data set has. Symbol 0 and unit 0 are padding."""

    num_speakers: int = pydantic.Field(gt=0)
    """Number of speakers."""
    num_symbols: int = pydantic.Field(default=29, gt=0)
    """Symbols of texts, with the padding symbol: 29 for padding, a to z, apostrophe and space."""
    num_units: int = pydantic.Field(default=0, ge=0)
    """Semantic units, without padding: they are 1 to num_units."""
    is_two_sided: bool = False
    """Whether clips are conversations with the codes of their other side."""


class ConditionConfig(Config):
    """The conditions of a decoder; one instance is shared by all arms of a comparison."""

    content: Literal["semantic", "text", "none"] = "semantic"
    """What is said: frame-aligned semantic units, text, or nothing."""
    route: Literal["prefix", "cross"] = "prefix"
    """How text reaches the backbone: as positions before the frames, or by cross-attention. Unused
    for other content.
    """
    units_route: Literal["sum", "prefix", "cross"] = added("sum")
    """How semantic units reach the backbone. Each is always added to its own frame, which a few
    neighbours reach through the convolutions; prefix and cross also let every frame attend to all
    units of the clip, as positions before the frames or by cross-attention. With the sum alone a
    causal decoder does not see how the clip goes on. Unused for other content.
    """
    speaker: bool = True
    """Whether the speaker is given. A speaker may be any label that clips have, for example a class
    of sounds.
    """
    duration: bool = False
    """Whether the number of frames is given as a vector too."""
    clip_route: Literal["sum", "adaln"] = "sum"
    """How speaker and duration, which hold for the whole clip, reach the backbone: added to every
    frame, or modulating the norms of every layer (adaLN; in the diffusion decoder together with the
    noise level).
    """
    dropout: float = pydantic.Field(default=0.1, ge=0, lt=1)
    """Share of training examples whose conditions are all dropped; guidance needs some, 0.1 is
    usual.
    """
    layers: int = pydantic.Field(default=2, gt=0, le=1024)
    """Convolution blocks that encode the content."""
    parts: tuple[AnyPart, ...] = added(())
    """Conditions by name, beside those above: labels, numbers, or a class of the user (parts.py).
    """

    @pydantic.model_validator(mode="after")
    def _check_parts(self) -> "ConditionConfig":
        check_names(self.parts)
        return self

    @property
    def text_route(self) -> TextRoute:
        """How the backbone is built to read what it attends to beside the frames."""
        if self.content == "semantic" and self.units_route != "sum":
            return self.units_route
        return self.route if self.content == "text" else "none"

    def check_texts(self, texts: Sequence[str]) -> str:
        """Return a note on the training texts that say nothing to the decoder, empty if there are
        none.

        Raises:
            ConfigError: if text is the content and no text has a symbol: every arm would train
                without content.
        """
        silent = [text for text in texts if not has_symbols(text)]
        if self.content != "text" or not silent:
            return ""
        if len(silent) < len(texts):
            share = (
                f"{len(silent)} of {len(texts)} training clips have no text in the alphabet a-z, "
                "0-9 and apostrophe"
            )
            return f"condition.content='text': {share}; they train without content"
        # A text in another alphabet is there, which needs another fix than no text at all.
        example = next(filter(str.strip, silent), "")
        if not example:
            raise ConfigError(
                f"condition.content='text': none of the {len(texts)} training clips has a text, so "
                "every arm would train without content; name a table with a column text in "
                "data.corpus.manifest, or set condition.content=semantic or none"
            )
        raise ConfigError(
            f"condition.content='text': none of the {len(texts)} training clips has a text in the "
            f"alphabet a-z, 0-9 and apostrophe (for example {shorten(example)}), so every arm "
            "would train without content; transliterate the texts, or set "
            "condition.content=semantic or none"
        )

    @property
    def is_modulating(self) -> bool:
        """True if the backbone is built with a modulation for what holds for the whole clip."""
        is_clip_modulating = self.clip_route == "adaln" and (self.speaker or self.duration)
        return is_clip_modulating or any(part.route == "adaln" for part in self.parts)


class Conditions(NamedTuple):
    """Encoded conditions: `frames` is added to the decoder's input, `text` and `clip` go to the
    backbone.
    """

    frames: Float[Array, "b t h"]
    text: Text | None
    clip: Float[Array, "b h"] | None = None


class Conditioner(nnx.Module):
    """Embeds speaker and content."""

    is_shared: ClassVar[bool] = True

    def __init__(
        self,
        config: ConditionConfig,
        vocab: CondVocab,
        backbone: BackboneConfig,
        *,
        key: Key[Array, ""],
    ):
        if config.content == "semantic" and not vocab.num_units:
            raise ConfigError(
                "condition.content='semantic': the data set has no semantic units (num_units=0); "
                "encode it with a recogniser, or use condition.content='text'"
            )
        speaker_key, content_key, layer_key = jax.random.split(key, 3)
        width = backbone.width
        num_entries = {"semantic": vocab.num_units + 1, "text": vocab.num_symbols, "none": 0}[
            config.content
        ]

        def make_layer(key):
            return ConvBlock(width, width, key=key, output_scale=(2 * config.layers) ** -0.5)

        self.config = config
        self.vocab = vocab
        self.width = width
        self.dtype = backbone.dtype
        self.deterministic = False
        # The last entry of each table means a dropped condition.
        self.speakers = (
            Embedding(vocab.num_speakers + 1, width, key=speaker_key) if config.speaker else None
        )
        self.content = Embedding(num_entries + 1, width, key=content_key) if num_entries else None
        self.layers = (
            jax.vmap(make_layer)(jax.random.split(layer_key, config.layers))
            if num_entries
            else None
        )
        # Keys of their own, which no split gives, so that a part more does not change what the
        # others start from.
        part_keys = [
            jax.random.fold_in(key, PART_KEYS + number) for number in range(len(config.parts))
        ]
        tellers = [TellPart(part, width, key=key) for part, key in zip(config.parts, part_keys)]
        self.parts = nnx.List(tellers) if tellers else None

    def __call__(
        self, cond: Cond, is_valid: Bool[Array, "b t"], *, key: Key[Array, ""] | None = None
    ) -> Conditions:
        """Encode `cond` for the valid frames; a key drops some examples' conditions."""
        is_dropped = cond.is_dropped
        if key is not None and not self.deterministic and self.config.dropout > 0:
            is_dropped = is_dropped | jax.random.bernoulli(
                key, self.config.dropout, is_dropped.shape
            )
        frames = jnp.zeros((*is_valid.shape, self.width), self.dtype)
        text = None
        if self.content is not None and self.config.content == "semantic":
            # The last embedding of each table means "dropped", which differs from padding.
            units = jnp.where(is_dropped[:, None], self.vocab.num_units + 1, cond.content)
            encoded = self._encode(self.content(units), is_valid)
            frames += encoded
            if self.config.text_route != "none":
                # Sinusoids on both sides, by which a frame finds its own unit among all of them.
                places = _places(is_valid, self.width).astype(self.dtype)
                text = Text(encoded + places, is_valid)
                frames += places
        if self.content is not None and self.config.content == "text":
            symbols = self._keep_symbols(cond.text, is_dropped)
            embedded = self.content(symbols) + _places(symbols > 0, self.width)
            text = Text(self._encode(embedded, symbols > 0), symbols > 0)
            # Sinusoids on both sides, by which attention can align symbols and frames.
            frames += _places(is_valid, self.width).astype(self.dtype)
        clip = jnp.zeros((is_valid.shape[0], self.width))
        if self.speakers is not None:
            speakers = jnp.where(is_dropped, self.vocab.num_speakers, cond.speaker)
            clip += self.speakers(speakers)
        if self.config.duration:
            clip += jnp.where(
                is_dropped[:, None], 0.0, _describe_duration(is_valid.sum(axis=1), self.width)
            )
        if self.config.clip_route == "adaln":
            modulating = clip
        else:
            modulating = jnp.zeros_like(clip)
            # b h -> b 1 h, the same vector at every frame
            frames += clip[:, None, :].astype(self.dtype)
        for teller in self.parts or ():
            features = teller(cond.parts, is_dropped, is_valid)
            if teller.route == "adaln":
                modulating += features
            else:
                # What holds for the whole clip is added to each of its frames.
                features = features if teller.is_per_frame else features[:, None, :]
                frames += features.astype(self.dtype)
        frames = jnp.where(is_valid[:, :, None], frames, 0)
        return Conditions(frames, text, modulating if self.config.is_modulating else None)

    def _keep_symbols(
        self, symbols: Int[AnyArray, "b n"], is_dropped: Bool[AnyArray, "b"]
    ) -> Int[Array, "b n"]:
        # A dropped text is one "no condition" symbol, so that its length says nothing either.
        nothing = jnp.where(jnp.arange(symbols.shape[1]) == 0, self.vocab.num_symbols, 0)
        return jnp.where(is_dropped[:, None], nothing[None, :], symbols)

    def _encode(
        self, embedded: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        x = constrain(embedded.astype(self.dtype), BATCH)
        return lax.scan(
            lambda x, layer: (constrain(layer(x, is_valid), BATCH), None), x, self.layers
        )[0]


def _places(is_valid: Bool[Array, "b t"], width: int) -> Float[Array, "b t h"]:
    # Sinusoids of the relative place: the slowest makes a sixth of a turn over the clip, the
    # fastest 1000 times that.
    place = jnp.cumsum(is_valid, axis=1) / jnp.maximum(is_valid.sum(axis=1, keepdims=True), 1)
    rates = 1000.0 ** jnp.linspace(0, 1, width // 2)
    angles = place[:, :, None] * rates[None, None, :]
    return width**-0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _describe_duration(num_frames: Int[Array, "b"], width: int) -> Float[Array, "b h"]:
    # Sinusoids of the logarithm: the slowest makes half a turn from 1 frame to 20,000, the fastest
    # 100 times that.
    place = jnp.log(jnp.maximum(num_frames, 1)) / jnp.log(20_000.0)
    angles = jnp.pi * place[:, None] * 100.0 ** jnp.linspace(0, 1, width // 2)[None, :]
    return width**-0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def with_unconditional(cond: Cond, copies: int = 2) -> Cond:
    """Return every row of the batch followed by itself without conditions, for one network call on
    both.

    Neighbours in the batch lie on the same chip, so nothing has to move when `guide` compares them.
    One copy is `cond`.
    """
    if copies == 1:
        return cond
    dropped = cond._replace(is_dropped=jnp.ones_like(cond.is_dropped))
    pairs = jax.tree.map(lambda *pair: jnp.stack(pair, axis=1), cond, dropped)
    # b 2 ... -> (b 2) ...: each row is followed by the same one without conditions.
    return jax.tree.map(lambda pair: pair.reshape(-1, *pair.shape[2:]), pairs)


def modulate(
    level: Float[Array, "b h"] | None, conditions: Conditions
) -> Float[Array, "b h"] | None:
    """Return what modulates the backbone: an embedded noise level, what holds for the whole clip,
    or their sum.
    """
    parts = [part for part in (level, conditions.clip) if part is not None]
    return sum(parts[1:], parts[0]) if parts else None


def guide(outputs: Float[Array, "..."], guidance: float) -> Float[Array, "..."]:
    """Take pairs of rows and return unconditional + guidance * (conditional - unconditional); 1 is
    conditional.
    """
    # (b 2) ... -> 2 b ...
    conditional, unconditional = jnp.moveaxis(outputs.reshape(-1, 2, *outputs.shape[1:]), 1, 0)
    return unconditional + guidance * (conditional - unconditional)
