"""The promises of a codec, tried out on a second of noise, a chirp and a short clip.

In: the name of a codec of the user, `FILE.py`, `FILE.py:NAME` or `package.module:NAME`. Out: one
finding per promise. A promise that is broken here costs every arm: a clip whose tokens depend on
its batch mates is another training example in every batch, and a codec that is another one in every
process is encoded again by each.
"""

import numpy as np
from jaxtyping import Float

from genlab.codecs.frozen import FrozenCodec, make_own
from genlab.data.record import MOST_UNITS
from genlab.studies.contract.trial import Finding, require, try_out

CLOSE = 1e-3


def check_codec(name: str) -> list[Finding]:
    """Try out the codec that a function of the user returns.

    Raises:
        GenlabError: if there is no such function, it fails, or it returns something else.
    """
    module, fingerprint = make_own(name)
    trial = _CodecTrial(FrozenCodec(module, fingerprint, {}))
    return try_out(
        {
            "its token space is stated": trial.has_spec,
            "codes and latents have their shapes": trial.has_shapes,
            "batch mates and padding do not move a clip": trial.ignores_mates,
            "codes are near the latents": trial.quantises,
            "both views decode to whole frames, as do fewer levels": trial.decodes,
            "decoding depends on the clip alone": trial.decodes_alone,
            "the function returns the same codec every time": lambda: require(
                make_own(name)[1] == fingerprint,
                (
                    "parameters differ from call to call, so that every process would encode the "
                    "corpus again; fix the key"
                ),
            ),
        }
    )


class _CodecTrial:
    """One codec, and three waves of different lengths at its own sample rate."""

    def __init__(self, codec: FrozenCodec):
        self.codec = codec
        self.spec = codec.spec
        rate = self.spec.sample_rate_hz
        draw = np.random.default_rng(0)
        time_s = np.arange(rate) / rate
        chirp = np.sin(2 * np.pi * (100 + 400 * time_s) * time_s)
        noise = 0.2 * draw.standard_normal(rate)
        # Neither a second nor 0.37 s need be whole frames.
        self.waves = [
            wave.astype(np.float32)
            for wave in (0.5 * chirp, noise, 0.3 * chirp[: int(0.37 * rate)])
        ]
        self.frames = [-(-len(wave) // self.spec.hop_samples) for wave in self.waves]

    def has_spec(self) -> None:
        spec = self.spec
        for name in ("sample_rate_hz", "hop_samples", "latent_channels"):
            require(
                getattr(spec, name) > 0, f"spec.{name}={getattr(spec, name)}: expected at least 1"
            )
        if spec.codebooks:
            require(
                2 <= spec.entries <= MOST_UNITS,
                f"spec.entries={spec.entries}: expected 2 to {MOST_UNITS}",
            )
            expected = (spec.codebooks, spec.entries, spec.latent_channels)
            found = self.codec.code_vectors.shape
            require(found == expected, f"code_vectors have shape {found}, expected {expected}")

    def has_shapes(self) -> None:
        spec = self.spec
        for (codes, latents), frames in zip(self.codec.encode(self.waves), self.frames):
            require(
                codes.shape == (frames, spec.codebooks),
                f"codes {codes.shape}, not {(frames, spec.codebooks)}",
            )
            expected = (frames, spec.latent_channels)
            require(
                latents.shape == expected,
                f"latents have shape {latents.shape}, expected {expected}",
            )
            require(np.isfinite(latents).all(), "latents are not finite")
            in_range = not codes.size or (codes.min() >= 0 and codes.max() < spec.entries)
            require(in_range, f"codes outside 0 to {spec.entries - 1}")

    def ignores_mates(self) -> None:
        together = self.codec.encode(self.waves)
        for number, wave in enumerate(self.waves):
            [(codes, latents)] = self.codec.encode([wave])
            _same(latents, together[number][1], "latents of a clip differ beside other clips")
            # A frame midway between two entries may fall to either side of rounding.
            moved = float(np.mean(codes != together[number][0])) if codes.size else 0.0
            require(moved < 0.01, f"{moved:.0%} of the codes of a clip differ beside other clips")

    def quantises(self) -> None:
        if not self.spec.codebooks:
            return
        codes, latents = self.codec.encode(self.waves)[0]
        summed = sum(
            self.codec.code_vectors[level][codes[:, level]] for level in range(self.spec.codebooks)
        )
        rest = np.mean((summed - latents) ** 2)
        whole = np.mean(latents**2)
        require(
            rest < whole,
            f"the summed code vectors are {rest / whole:.2g} of the latents' power away from them",
        )

    def decodes(self) -> None:
        codes, latents = (list(views) for views in zip(*self.codec.encode(self.waves)))
        decoded = [self.codec.decode_latents(latents)]
        for levels in range(1, self.spec.codebooks + 1):
            decoded.append(self.codec.decode_codes([view[:, :levels] for view in codes]))
        for waves in decoded:
            for wave, frames in zip(waves, self.frames):
                expected = frames * self.spec.hop_samples
                require(
                    len(wave) == expected,
                    f"{frames} frames decode to {len(wave)} samples, expected {expected}",
                )
                require(np.isfinite(wave).all(), "the decoded wave is not finite")

    def decodes_alone(self) -> None:
        latents = [view for _, view in self.codec.encode(self.waves)]
        together = self.codec.decode_latents(latents)
        for number, view in enumerate(latents):
            [alone] = self.codec.decode_latents([view])
            _same(alone, together[number], "a clip is decoded to something else beside other clips")


def _same(one: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."], problem: str) -> None:
    scale = max(1e-6, float(np.abs(one).max()))
    apart = float(np.abs(one - other).max()) / scale
    require(apart < CLOSE, f"{problem} (by {apart:.1g} of the peak)")
