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
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError, added
from genlab.config.errors import shorten
from genlab.data.text import has_symbols
from genlab.decoders.guidance import stressed
from genlab.decoders.parts import (
    ATTENDED,
    TellPart,
    check_names,
    dropout_of,
    is_sequence,
    num_attended,
)
from genlab.decoders.told.kinds import AnyPart
from genlab.decoders.told.places import places_of
from genlab.machine.sharding import BATCH, constrain
from genlab.nets.backbone import BackboneConfig, TextRoute
from genlab.nets.blocks import ConvBlock
from genlab.nets.context import Text, join_texts
from genlab.nets.linear import Embedding
from genlab.tokens import AnyArray, Cond

PART_KEYS = 2**16
CONTENT_NAMES = {"semantic": "units", "text": "text"}  # by which inputs are guided and dropped
Share = Annotated[float, pydantic.Field(ge=0, lt=1)]


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
    """Conditions by name, beside those above: labels, texts, curves, vectors, codes, or a class of
    the user (told/kinds.py lists them); each with its route and its own dropout.
    """
    content_dropout: Share = added(0.0)
    """Share of training examples of which text or units alone are dropped, so that they can be
    guided alone.
    """
    speaker_dropout: Share = added(0.0)
    """The same of the speaker."""
    duration_dropout: Share = added(0.0)
    """The same of the duration."""

    @pydantic.model_validator(mode="after")
    def _check_parts(self) -> "ConditionConfig":
        check_names(self.parts)
        routes = self._routes()
        if len(set(routes.values())) > 1:
            first = next(iter(routes))
            other = next(field for field in routes if routes[field] != routes[first])
            raise ValueError(
                f"{first}={routes[first]!r} and {other}={routes[other]!r}: the backbone reads what "
                "it attends to in one of these ways; use the same route for both"
            )
        return self

    def _routes(self) -> dict[str, TextRoute]:
        """Return how each condition that is attended to is, by the name of its field."""
        routes: dict[str, TextRoute] = {}
        if self.content == "semantic" and self.units_route != "sum":
            routes["units_route"] = self.units_route
        if self.content == "text":
            routes["route"] = self.route
        for number, part in enumerate(self.parts):
            if part.route == "prefix" or part.route == "cross":
                routes[f"parts.{number}.route"] = part.route
        return routes

    @property
    def text_route(self) -> TextRoute:
        """How the backbone is built to read what it attends to beside the frames."""
        for route in self._routes().values():
            return route
        return "none"

    @property
    def has_places(self) -> bool:
        """True if frames are told where in the clip they are, by which attention can align them
        with what has an order of its own.
        """
        ordered = [part for part in self.parts if part.is_per_frame or is_sequence(part)]
        if any(part.route in ATTENDED for part in ordered):
            return True
        return self.content == "text" or (self.content == "semantic" and self.units_route != "sum")

    @property
    def dropouts(self) -> dict[str, float]:
        """The share of training examples in which each condition alone is dropped, by name."""
        told = {"speaker": self.speaker_dropout} if self.speaker else {}
        if self.content != "none":
            told[CONTENT_NAMES[self.content]] = self.content_dropout
        if self.duration:
            told["duration"] = self.duration_dropout
        return told | {part.name: dropout_of(part) for part in self.parts}

    def num_read(self, num_frames: int, num_symbols: int) -> int:
        """Return the positions of an example that the backbone reads beside its frames."""
        content = 0
        if self.content == "text":
            content = num_symbols
        elif self.content == "semantic" and self.units_route != "sum":
            content = num_frames
        return content + sum(num_attended(part, num_frames) for part in self.parts)

    def problem_of_guidance(self, sampler: object) -> str:
        """Return why a sampler that is guided contrasts with nothing that was trained, "" if it
        does not: the field and its value, what is wrong, and the fix.
        """
        guidance = float(getattr(sampler, "guidance", 1.0))
        # Without dropped conditions in training the unconditional prediction is untrained noise.
        if guidance != 1 and self.dropout == 0:
            return (
                f"guidance={guidance:g} contrasts with dropped conditions, which "
                "condition.dropout=0 never trains; set condition.dropout=0.1 or guidance=1"
            )
        for one in stressed(sampler):
            if one.name not in self.dropouts:
                known = ", ".join(self.dropouts) or "none, as nothing is told"
                return f"guidances: no input {one.name!r}, expected one of {known}"
            if self.dropouts[one.name] == 0:
                field = f"{one.name}_dropout" if one.name in ("speaker", "duration") else ""
                field = field or ("content_dropout" if one.name in CONTENT_NAMES.values() else "")
                field = f"condition.{field}" if field else f"dropout of the part {one.name!r}"
                return (
                    f"guidances: guidance={one.guidance:g} of {one.name!r} contrasts with clips "
                    f"of which it alone is dropped, which no training example is; set {field} to "
                    "0.1, or leave it out"
                )
        return ""

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

    def _dropped(self, cond: Cond, key: Key[Array, ""] | None) -> dict[str, Bool[Array, "b"]]:
        """Return which examples lack each condition: all together, alone in training, or as they
        are told.
        """
        is_training = key is not None and not self.deterministic
        is_dropped = jnp.asarray(cond.is_dropped)
        if key is not None and is_training and self.config.dropout > 0:
            is_dropped = is_dropped | jax.random.bernoulli(
                key, self.config.dropout, is_dropped.shape
            )
        absent = cond.absent or {}
        dropped = {}
        for number, (name, share) in enumerate(self.config.dropouts.items(), start=1):
            alone = is_dropped | absent[name] if name in absent else is_dropped
            if key is not None and is_training and share > 0:
                own_key = jax.random.fold_in(key, number)
                alone = alone | jax.random.bernoulli(own_key, share, is_dropped.shape)
            dropped[name] = alone
        return dropped

    def __call__(
        self, cond: Cond, is_valid: Bool[Array, "b t"], *, key: Key[Array, ""] | None = None
    ) -> Conditions:
        """Encode `cond` for the valid frames; a key drops some examples' conditions."""
        dropped = self._dropped(cond, key)
        frames = jnp.zeros((*is_valid.shape, self.width), self.dtype)
        places = places_of(is_valid, self.width).astype(self.dtype)
        texts = []
        if self.content is not None and self.config.content == "semantic":
            # The last embedding of each table means "dropped", which differs from padding.
            is_dropped = dropped["units"][:, None]
            units = jnp.where(is_dropped, self.vocab.num_units + 1, cond.content)
            encoded = self._encode(self.content(units), is_valid)
            frames += encoded
            if self.config.units_route != "sum":
                texts.append(Text(encoded + places, is_valid))
        if self.content is not None and self.config.content == "text":
            symbols = self._keep_symbols(cond.text, dropped["text"])
            embedded = self.content(symbols) + places_of(symbols > 0, self.width)
            texts.append(Text(self._encode(embedded, symbols > 0), symbols > 0))
        if self.config.has_places:
            # Sinusoids on both sides, by which a frame finds its own place in what it attends to.
            frames += places
        clip = self._tell_clip(cond, is_valid, dropped)
        if self.config.clip_route == "adaln":
            modulating = clip
        else:
            modulating = jnp.zeros_like(clip)
            # b h -> b 1 h, the same vector at every frame
            frames += clip[:, None, :].astype(self.dtype)
        for teller in self.parts or ():
            features, memory = teller(cond.parts, dropped[teller.name], is_valid, places)
            if memory is not None:
                texts.append(memory._replace(features=memory.features.astype(self.dtype)))
            if features is not None and teller.route == "adaln":
                modulating += features
            elif features is not None:
                # What holds for the whole clip is added to each of its frames.
                features = features if teller.is_per_frame else features[:, None, :]
                frames += features.astype(self.dtype)
        frames = jnp.where(is_valid[:, :, None], frames, 0)
        clip = modulating if self.config.is_modulating else None
        return Conditions(frames, join_texts(texts), clip)

    def _tell_clip(
        self, cond: Cond, is_valid: Bool[Array, "b t"], dropped: dict[str, Bool[Array, "b"]]
    ) -> Float[Array, "b h"]:
        """Return the features of speaker and duration."""
        clip = jnp.zeros((is_valid.shape[0], self.width))
        if self.speakers is not None and cond.speaker.ndim == 2:
            # A mixture of speakers, given by hand; training knows one per clip.
            mixed = self.speakers.mix(jnp.asarray(cond.speaker))
            nobody = self.speakers(jnp.full(is_valid.shape[:1], self.vocab.num_speakers))
            clip += jnp.where(dropped["speaker"][:, None], nobody, mixed)
        elif self.speakers is not None:
            speakers = jnp.where(dropped["speaker"], self.vocab.num_speakers, cond.speaker)
            clip += self.speakers(speakers)
        if self.config.duration:
            is_dropped = dropped["duration"][:, None]
            lengths = _describe_duration(is_valid.sum(axis=1), self.width)
            clip += jnp.where(is_dropped, 0.0, lengths)
        return clip

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


def _describe_duration(num_frames: Int[Array, "b"], width: int) -> Float[Array, "b h"]:
    # Sinusoids of the logarithm: the slowest makes half a turn from 1 frame to 20,000, the fastest
    # 100 times that.
    place = jnp.log(jnp.maximum(num_frames, 1)) / jnp.log(20_000.0)
    angles = jnp.pi * place[:, None] * 100.0 ** jnp.linspace(0, 1, width // 2)[None, :]
    return width**-0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def modulate(
    level: Float[Array, "b h"] | None, conditions: Conditions
) -> Float[Array, "b h"] | None:
    """Return what modulates the backbone: an embedded noise level, what holds for the whole clip,
    or their sum.
    """
    parts = [part for part in (level, conditions.clip) if part is not None]
    return sum(parts[1:], parts[0]) if parts else None
