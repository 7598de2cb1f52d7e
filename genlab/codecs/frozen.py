"""A trained codec as the rest of the lab sees it: frozen, compiled, identified.

In: the name of shipped weights, a path to weights that `genlab codec export` wrote, a published
codec (names.py), for example `mimi` or `mimi:path/to/files`, `mulaw` or `mulaw:8000` (samples per
second), or code of the user that returns one: a Python file with a function `codec`,
`FILE.py:NAME` or `package.module:NAME`. Out: `FrozenCodec`, which encodes and decodes lists of
waves of any length. This is the only place where audio becomes tokens and tokens become audio, so
between the arms of a comparison nothing but the decoder differs. Lengths are rounded up to a few
bucket sizes so that a corpus costs a few compilations. Every clip is followed by at least one frame
of padding, so neither the bucket nor the other clips of a call change its result. Waves come and go
at `wave_rate_hz` with `channels` channels; a codec of another rate or of other channels is adapted
here and nowhere else. A mono codec encodes the two channels of stereo one by one (stereo.py); a
stereo codec gets a mono wave on both channels, and what it decodes is averaged.
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, Shaped
from pydantic import JsonValue
from typing_extensions import get_protocol_members

from genlab import __version__
from genlab.codecs.base import Codec
from genlab.codecs.names import PUBLISHED, PublishedName
from genlab.codecs.spectral import TRAINING_PARTS, SpectralCodec, SpectralCodecConfig
from genlab.codecs.stereo import EachChannel, stereo_spec
from genlab.config import ConfigError, GenlabError, digest
from genlab.config.errors import describe_raised, is_ours_to_stop, one_line, shorten
from genlab.data.audio import AudioFormat, Channels, as_audio, as_wave, fit_channels, resample
from genlab.nets.weights import load_metadata, load_weights, save_weights
from genlab.run.trust import code_file, digest_of, is_function, load_function, source_of
from genlab.tokens import Tokens, TokenSpec

BUCKET_FRAMES = 64
SHIPPED = "in_lab_16khz"


class FrozenCodec:
    """A codec whose parameters do not change any more.

    Attributes:
        spec: the token space.
        fingerprint: 10 hex digits of the SHA-256 of the weights; stores and comparisons are pinned
            to it.
        metadata: training command, data, licence and measured scores, as they were written beside
            the weights.
        wave_rate_hz: sample rate of the waves that go in and come out; the codec's own if nobody
            says otherwise.
        channels: of these waves: 1 has the shape (samples,), 2 has (samples, 2).
    """

    def __init__(
        self,
        codec: Codec,
        fingerprint: str,
        metadata: Mapping[str, JsonValue],
        wave_rate_hz: int | None = None,
        channels: Channels = 1,
    ):
        if channels > channels_of(codec):
            codec, fingerprint = EachChannel(codec), digest([fingerprint, "each channel"])
        self.channels: Channels = channels
        self._inner_channels: Channels = channels_of(codec)
        self.spec: TokenSpec = codec.spec
        self.fingerprint = fingerprint
        self.metadata = metadata
        self.wave_rate_hz = wave_rate_hz or codec.spec.sample_rate_hz
        self._graph, state = nnx.split(codec)
        self._state = nnx.as_pure(state)
        self._encode = jax.jit(lambda state, *args: self._merge(state).encode(*args))
        self._decode_codes = jax.jit(lambda state, *args: self._merge(state).decode_codes(*args))
        self._decode_latents = jax.jit(
            lambda state, *args: self._merge(state).decode_latents(*args)
        )

    @property
    def audio(self) -> AudioFormat:
        """Rate and channels of the waves that go in and come out."""
        return AudioFormat(self.wave_rate_hz, self.channels)

    @property
    def code_vectors(self) -> Float[np.ndarray, "k v d"]:
        """The entries of every codebook, in the units of the latents."""
        return np.asarray(self._merge(self._state).code_vectors)

    @property
    def module(self) -> Codec:
        """The codec as a flax module with these weights: for `jax.jit`, gradients, other dtypes and
        streaming.

        It takes batches "b s", those of a stereo codec "b s 2", with their `num_samples` at
        `spec.sample_rate_hz`, and resamples nothing.
        """
        return self._merge(self._state)

    def _merge(self, state: nnx.State) -> Codec:
        return nnx.merge(self._graph, state)

    def encode(
        self, waves: Sequence[Shaped[np.ndarray, "..."]]
    ) -> list[tuple[Int[np.ndarray, "t k"], Float[np.ndarray, "t d"]]]:
        """Return (codes, latents) of each wave, in one compiled call; a codec without codes gives
        zero levels.

        Raises:
            GenlabError: naming the wave that has other channels, or is not finite and float or
                int16.
        """
        if not len(waves):
            return []
        tokens, num_frames = self._encode_padded(waves)
        latents = np.asarray(tokens.latents)
        codes = (
            np.zeros((*latents.shape[:2], 0), np.int32)
            if tokens.codes is None
            else np.asarray(tokens.codes)
        )
        return [(codes[i, :n], latents[i, :n]) for i, n in enumerate(num_frames)]

    def encode_side(
        self, waves: Sequence[Shaped[np.ndarray, "..."]]
    ) -> Float[np.ndarray, "b c"] | None:
        """Return the utterance code of each wave, or nothing if the codec has no side channels."""
        return np.asarray(self._encode_padded(waves)[0].side) if self.spec.side_channels else None

    def count_frames(self, num_samples: int) -> int:
        """Return the frames of a wave of so many samples, or one less: resampling rounds its length
        by itself.
        """
        return -(
            -int(num_samples * self.spec.sample_rate_hz / self.wave_rate_hz)
            // self.spec.hop_samples
        )

    def _encode_padded(
        self, waves: Sequence[Shaped[np.ndarray, "..."]]
    ) -> tuple[Tokens, Int[np.ndarray, "b"]]:
        waves = [
            fit_channels(
                resample(wave, self.wave_rate_hz, self.spec.sample_rate_hz), self._inner_channels
            )
            for wave in self._checked(waves)
        ]
        hop = self.spec.hop_samples
        num_samples = np.array([len(wave) for wave in waves], np.int32)
        frames = bucket_frames(-(-int(num_samples.max()) // hop) + 1)
        padded = np.zeros((len(waves), frames * hop, *waves[0].shape[1:]), np.float32)
        for row, wave in zip(padded, waves):
            row[: len(wave)] = wave
        return self._encode(self._state, padded, num_samples), -(-num_samples // hop)

    def _checked(self, waves: Sequence[Shaped[np.ndarray, "..."]]) -> list[np.ndarray]:
        if self.channels == 1:
            return [as_wave(wave, f"waves[{number}]") for number, wave in enumerate(waves)]
        found = [as_audio(wave, f"waves[{number}]") for number, wave in enumerate(waves)]
        return [fit_channels(wave, self.channels) for wave in found]

    def decode_codes(
        self, codes: Sequence[Int[np.ndarray, "t k"]], side: Float[np.ndarray, "b c"] | None = None
    ) -> list[Float[np.ndarray, "s *c"]]:
        """Return the wave of each sequence of codes; fewer than K levels decode at a lower rate.

        Args:
            codes: one array per wave.
            side: what `encode_side` gave; the rows of other utterances give their voices.

        Raises:
            GenlabError: if the codes are not of this codec: too many levels, or entries that it
                does not have.
        """
        for view in codes:
            if not 1 <= view.shape[1] <= self.spec.codebooks:
                raise GenlabError(
                    f"codes: {view.shape[1]} levels, expected 1..{self.spec.codebooks}"
                )
            if view.size and not 0 <= int(view.min()) <= int(view.max()) < self.spec.entries:
                raise GenlabError(
                    f"codes: {view.min()}..{view.max()}, expected 0..{self.spec.entries - 1}"
                )
        return self._decode(self._decode_codes, codes, np.int32, side)

    def keep_levels(
        self, codes: Int[np.ndarray, "t k"], levels: int | None
    ) -> Int[np.ndarray, "t _"]:
        """Return the first `levels` codebooks of `codes`, or all of them if absent.

        Raises:
            GenlabError: if this codec has no such number of levels.
        """
        if levels is not None and not 1 <= levels <= self.spec.codebooks:
            raise GenlabError(f"levels: expected 1..{self.spec.codebooks}, got {levels}")
        return codes[:, :levels]

    def decode_latents(
        self,
        latents: Sequence[Float[np.ndarray, "t d"]],
        side: Float[np.ndarray, "b c"] | None = None,
    ) -> list[Float[np.ndarray, "s *c"]]:
        """Return the wave of each sequence of latents (not normalised)."""
        return self._decode(self._decode_latents, latents, np.float32, side)

    def _decode(
        self,
        decode: Any,
        views: Sequence[np.ndarray],
        dtype: type,
        side: Float[np.ndarray, "b c"] | None,
    ) -> list[Float[np.ndarray, "s *c"]]:
        if not len(views):
            return []
        num_frames = np.array([len(view) for view in views], np.int32)
        padded = np.zeros(
            (len(views), bucket_frames(int(num_frames.max()) + 1), views[0].shape[1]), dtype
        )
        for row, view in zip(padded, views):
            row[: len(view)] = view
        waves = np.asarray(
            decode(self._state, padded, num_frames, *([] if side is None else [side]))
        )
        whole = [
            fit_channels(wave[: n * self.spec.hop_samples], self.channels)
            for wave, n in zip(waves, num_frames)
        ]
        return [
            np.clip(resample(wave, self.spec.sample_rate_hz, self.wave_rate_hz), -1, 1)
            for wave in whole
        ]


def channels_of(codec: Codec) -> Channels:
    """Return the channels of a codec's own waves: 1, unless it has an attribute `channels`."""
    return getattr(codec, "channels", 1)


def bucket_frames(num_frames: int) -> int:
    """Round up to a multiple of `BUCKET_FRAMES`."""
    return -(-num_frames // BUCKET_FRAMES) * BUCKET_FRAMES


def weights_path(name: str) -> Path:
    """Return the weights file that `name` stands for: a shipped name, or a path to a `.safetensors`
    file.

    Raises:
        GenlabError: if it is neither. A missing codec is never replaced by a random one.
    """
    shipped = Path(str(resources.files("genlab.codecs") / "weights" / f"{name}.safetensors"))
    path = shipped if "/" not in name and not name.endswith(".safetensors") else Path(name)
    if not os.path.isfile(path):  # pathlib raises on names longer than the system takes
        raise GenlabError(
            f"codec {shorten(name)}: no weights at {one_line(str(path), 200)}; use {SHIPPED!r}, a "
            f"published one ({', '.join(PUBLISHED)}, or KIND:DIRECTORY), a Python file with "
            "codec(), or train one with `genlab train configs/codec_16khz.py` and give the path "
            "of the exported .safetensors"
        )
    return path


def load_codec(
    name: str = SHIPPED, wave_rate_hz: int | None = None, channels: Channels = 1
) -> FrozenCodec:
    """Load shipped weights by name, exported weights by path, a published codec, or one's own from
    a Python file.

    Args:
        name: see above; SOURCE is a directory with config.json and safetensors, or a Hub id;
            without it the usual one.
        wave_rate_hz: sample rate of the waves that the caller gives and takes; the codec's own if
            absent.
        channels: of these waves.

    Raises:
        GenlabError: if the file is missing, damaged, or does not match its config.
    """
    codec, fingerprint, metadata = _load_any(name)
    return FrozenCodec(codec, fingerprint, metadata, wave_rate_hz, channels)


def _load_any(name: str) -> tuple[Codec, str, Mapping[str, JsonValue]]:
    """Return a codec, its fingerprint and what is known of it."""
    kind, _, source = name.partition(":")
    if kind == "mulaw":
        from genlab.codecs.mulaw import MuLawConfig

        config = MuLawConfig().override([f"sample_rate_hz={source}"] if source else [])
        return config.build(), config.digest(), {"config": config.to_dict()}
    published = PublishedName.parse(name)
    if published is not None:
        found = published.load()
        source = published.source or found.config.hub_id
        metadata = {"config": found.config.to_dict(), "source": source}
        return found.codec, found.fingerprint, metadata
    if is_function(name):
        codec, fingerprint = _load_own(name, digest_of(name, "codec"))
        return codec, fingerprint, {"source": Path(name).name}
    codec, metadata = load_exported(name)
    return codec, metadata["sha256"][:10], metadata


def check_is_local(name: str, asking: Path) -> None:
    """Refuse a published codec that would be downloaded: the file `asking` may not, a person may.

    Raises:
        ConfigError: if its files are not on this machine.
    """
    published = PublishedName.parse(name)
    if published is not None and published.config_class.needs_download(published.source):
        source = published.source or published.config_class.hub_id
        raise ConfigError(
            f"{asking}: data.codec={name!r:.100}: its files are not on this machine, and a "
            f"config.json downloads nothing by itself; add data.codec={name:.100} if you want "
            f"them, or fetch them with `genlab codec load {published.kind} --weights "
            f"{source:.100}`"
        )


def token_spec(name: str, channels: Channels = 1) -> TokenSpec:
    """Return the token space of the codec called `name` on waves of so many channels, without its
    weights; a published one has its usual shape.

    Raises:
        GenlabError: if there is no such codec.
    """
    spec, own = _spec_of(name)
    return stereo_spec(spec) if channels > own else spec


def _spec_of(name: str) -> tuple[TokenSpec, Channels]:
    """Return a codec's own token space and the channels of its waves."""
    published = PublishedName.parse(name)
    if published is not None and published.source is None:
        config: Any = published.usual()
        return config.spec, getattr(config, "channels", 1)
    if published is not None or name.partition(":")[0] == "mulaw" or is_function(name):
        codec = _load_any(name)[0]
        return codec.spec, channels_of(codec)
    shape = _read_shape(weights_path(name))[0]
    return shape.spec, shape.channels


def load_exported(name: str) -> tuple[SpectralCodec, dict[str, Any]]:
    """Return the in-lab codec behind a shipped name or a path to exported weights, and its
    metadata.

    Raises:
        GenlabError: if the file is missing, damaged, or does not match its config.
    """
    path = weights_path(name)
    config, metadata = _read_shape(path)
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(key=jax.random.key(0))))
    tree = load_weights(path, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, tree))
    return nnx.merge(graph, state), metadata


def _read_shape(path: Path) -> tuple[SpectralCodecConfig, dict[str, Any]]:
    """Return the config in the JSON beside exported weights, and all of that JSON."""
    metadata = load_metadata(path)
    if "config" not in metadata:
        raise GenlabError(
            f"{path.with_suffix('.json')}: field 'config' is missing; restore the file"
        )
    try:
        return SpectralCodecConfig.from_dict(metadata["config"]), metadata
    except ConfigError as error:
        raise ConfigError(
            f"{path.with_suffix('.json')}: config: {error}; restore the file"
        ) from None


@functools.lru_cache(maxsize=8)
def _load_own(name: str, digest: str) -> tuple[Codec, str]:
    """Return the codec of the user and its fingerprint; one that fits its codebooks does so once in
    a process.
    """
    return make_own(name)


def make_own(name: str) -> tuple[Codec, str]:
    """Call the user's function that makes a codec.

    Args:
        name: `FILE.py`, whose function is `codec`, `FILE.py:NAME` or `package.module:NAME`.

    Returns:
        The codec, and 10 hex digits over the source of the file and all parameters.

    Raises:
        GenlabError: if there is no such function, or it fails.
    """
    make = load_function(name, "codec", "codec")
    try:
        codec: Any = make()
    except BaseException as error:  # the file is the user's own, and may raise anything
        if is_ours_to_stop(error):
            raise
        raise GenlabError(
            f"codec {describe_raised(code_file(name) or Path(name), error)}"
        ) from error
    lacking = [part for part in sorted(get_protocol_members(Codec)) if not hasattr(codec, part)]
    if lacking or not issubclass(type(codec), nnx.Module):
        raise GenlabError(
            f"codec {shorten(name)}: got a {type(codec).__name__}, expected an nnx.Module with "
            f"{', '.join(lacking) or 'parameters'}; see Codec in genlab/codecs/base.py"
        )
    content = hashlib.sha256(source_of(name, "codec"))
    for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(codec))):
        content.update(np.asarray(leaf).tobytes())
    return codec, content.hexdigest()[:10]


def export_codec(
    codec: SpectralCodec, path: Path, metadata: Mapping[str, JsonValue]
) -> dict[str, Any]:
    """Write a trained codec, less what only training uses, as float16 weights and a JSON of config
    and `metadata`.
    """
    config = codec.config.model_copy(update={"adversarial": None, "distillation": None})
    plain = config.build(key=jax.random.key(0))
    trained = nnx.to_pure_dict(nnx.state(codec))
    trained = {name: part for name, part in trained.items() if name not in TRAINING_PARTS}
    # Usage counters and the step are training state; constants keep the exported file a pure
    # function of the codec.
    trained["quantiser"]["usage"] = np.zeros_like(trained["quantiser"]["usage"])
    trained["step"] = np.zeros_like(trained["step"])
    state = nnx.state(plain)
    nnx.replace_by_pure_dict(state, trained)
    return save_weights(
        path,
        nnx.to_pure_dict(state),
        {"config": config.to_dict(), "genlab": __version__, **metadata},
    )
