"""`tokens.json`: what a directory of tokens says about all of them.

In: a directory. Out: `OwnSpec`, and the code vectors where there are any. Everything that a model
and a score need to know about the tokens is here, so neither a codec nor audio is asked for.
"""

import math
import re
from pathlib import Path

import numpy as np
import pydantic
from jaxtyping import Float

from genlab.config import Config, GenlabError
from genlab.config.errors import shorten
from genlab.data.manifest import read_array
from genlab.data.nearest import near_folder
from genlab.data.record import MOST_UNITS
from genlab.run.names import inside
from genlab.run.stored import read_stored
from genlab.tokens import TokenSpec

SPEC_NAME = "tokens.json"
MOST_BYTES = 2**30  # of code vectors
FIX = "correct it (docs/tokens.md in the repository says what it holds)"


class OwnSpec(Config):
    """The contents of `tokens.json`."""

    sample_rate_hz: int = pydantic.Field(ge=1_000, le=768_000)
    """Sample rate of the audio behind the tokens, in Hz."""
    hop_samples: int = pydantic.Field(ge=1, le=768_000)
    """Samples per frame; the frame rate is sample_rate_hz / hop_samples."""
    codebooks: int = pydantic.Field(ge=1, le=256)
    """Codes per frame, coarse to fine."""
    entries: int = pydantic.Field(ge=2, le=MOST_UNITS)
    """Entries of each codebook: codes are 0 to entries - 1."""
    frame_hz: float | None = pydantic.Field(default=None, gt=0)
    """Frames per second, if you want it checked against the two above."""
    code_vectors: str | None = None
    """A .npy file of floats, [codebooks, entries, channels], in this directory: what every entry
    adds to a frame's latents.
    """
    latent_channels: int | None = pydantic.Field(default=None, ge=1, le=65_536)
    """Channels of the code vectors, if you want them checked."""
    codec: str = pydantic.Field(default="", max_length=200)
    """What made the tokens, in words; nothing is loaded by it."""
    licence: str = pydantic.Field(default="unknown", max_length=200)
    """Licence of the audio behind the tokens."""
    causal: bool = False
    """Whether a frame depends on no later sample."""

    @pydantic.model_validator(mode="after")
    def _check_rate(self) -> "OwnSpec":
        rate = self.sample_rate_hz / self.hop_samples
        if self.frame_hz is not None and not math.isclose(self.frame_hz, rate, rel_tol=1e-3):
            raise ValueError(
                f"frame_hz={self.frame_hz:g}: expected sample_rate_hz / hop_samples = {rate:g}"
            )
        if self.latent_channels is not None and self.code_vectors is None:
            raise ValueError(
                f"latent_channels={self.latent_channels}: expected the name of a .npy file in "
                "code_vectors as well: without them codes have no latents"
            )
        return self

    def token_spec(self, channels: int = 0) -> TokenSpec:
        """Return the token space, with so many channels of latents."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=self.hop_samples,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=channels,
            causal=self.causal,
        )


def read_spec(directory: Path) -> OwnSpec:
    """Return what the tokens in a directory are.

    Raises:
        GenlabError: if there is no such directory or no `tokens.json` in it, or it is wrong.
    """
    shown = shorten(str(directory))
    if re.match(r"\w{2,}:/", str(directory)):  # a path has lost one of the two slashes
        raise GenlabError(
            f"tokens {shown}: expected a directory on this disk; copy the tokens here first, for "
            "example by gcloud storage cp -r"
        )
    if not directory.is_dir():
        raise GenlabError(
            f"tokens {shown}: no such directory{near_folder(str(directory))}; expected one "
            f"with {SPEC_NAME} (docs/tokens.md in the repository)"
        )
    spec = read_stored(directory / SPEC_NAME, OwnSpec, fix=FIX)
    if spec is None:
        raise GenlabError(
            f"{directory}: no {SPEC_NAME}; write one with sample_rate_hz, hop_samples, codebooks "
            "and entries (docs/tokens.md in the repository)"
        )
    return spec


def read_vectors(directory: Path, spec: OwnSpec) -> Float[np.ndarray, "k v d"] | None:
    """Return the code vectors that `tokens.json` names, None if it names none.

    Raises:
        GenlabError: if the file is missing, or holds something else.
    """
    if spec.code_vectors is None:
        return None
    path = inside(directory, spec.code_vectors)
    field = f"{directory / SPEC_NAME}: code_vectors={shorten(spec.code_vectors)}"
    # A named pipe would wait for ever, so only a file is opened.
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise GenlabError(f"{field}: expected a .npy file of at most {MOST_BYTES} bytes; {FIX}")
    vectors = read_array(path, ndim=3, fix=FIX)
    channels = spec.latent_channels or vectors.shape[2]
    wanted = (spec.codebooks, spec.entries, channels)
    if vectors.shape != wanted or not channels:
        raise GenlabError(
            f"{field}: expected {[*wanted[:2], channels or 'channels']} values, got "
            f"{list(vectors.shape)}; {FIX}"
        )
    return vectors.astype(np.float32)
