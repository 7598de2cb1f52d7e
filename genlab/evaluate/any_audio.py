"""The measurements of audio that need no network for speech: spectra, timbre, chroma, classes.

In: `Clips` in the format of the corpus, at any rate, mono or stereo. Out: `Work` (metric.py). The
rows of the table are in any_table.py.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from genlab.evaluate.classes import ClassProbe
from genlab.evaluate.context import TIMBRE, EmbeddingSpace, Wanted, Wave
from genlab.evaluate.controls import label_swap, not_applicable
from genlab.evaluate.measures import distances_in
from genlab.evaluate.metric import Clips, Found, Work, each_clip, jobs_of_clips
from genlab.evaluate.scores import clip_means
from genlab.evaluate.spectrum import periodic_window, power_spectrum
from genlab.evaluate.timbre import mel_levels

RESOLUTIONS_S = (0.012, 0.046, 0.186)  # short frames place onsets, long ones resolve partials
FLOOR = 1e-7  # of power, far below what 16 bits hold
CHROMA_S = 0.186  # frames that resolve a semitone from 100 Hz on


def long_term_spectrum(clips: Clips) -> Work:
    """How far the mean spectrum of a clip is from that of the real one, in dB; order does not
    matter.
    """
    measure = partial(_spectrum_distance, clips.audio.sample_rate_hz)
    return each_clip("ltas_distance", measure)(clips)


def _spectrum_distance(rate_hz: int, wave: Wave, prompt: Wanted) -> float:
    levels = [
        10 * np.log10(np.mean(10 ** (mel_levels(mono, rate_hz) / 10), axis=0))
        for mono in (_mono(wave), _mono(prompt.wave))
    ]
    return float(np.abs(levels[0] - levels[1]).mean())


def aligned_spectra(clips: Clips) -> Work:
    """The difference of log spectra of codec floors, which are aligned with the real clips sample
    by sample.
    """
    if not clips.is_reconstruction:
        return Work()
    measure = partial(_aligned_distance, clips.audio.sample_rate_hz)
    return each_clip("stft_distance", measure)(clips)


def _aligned_distance(rate_hz: int, wave: Wave, prompt: Wanted) -> float:
    return spectral_distance_db(prompt.wave, wave, rate_hz)


def spectral_distance_db(
    reference: Float[np.ndarray, "s *c"], other: Float[np.ndarray, "s2 *c"], rate_hz: int
) -> float:
    """Return the mean difference of log spectra in dB over three resolutions and all channels.

    Louder bins count as much as quiet ones above -70 dB of full scale. What one wave has longer
    than the other is left out.
    """
    length = min(len(reference), len(other))
    pairs = [(reference[:length], other[:length])]
    if reference.ndim == 2:
        pairs = [(reference[:length, side], other[:length, side]) for side in (0, 1)]
    found = []
    for seconds in RESOLUTIONS_S:
        size = 2 ** round(np.log2(seconds * rate_hz))
        window = periodic_window("hann", size)
        scale = size * float(np.sum(window**2)) / 4
        for pair in pairs:
            levels = [
                10
                * np.log10(
                    power_spectrum(one, window, size, size // 4, centre=True) / scale + FLOOR
                )
                for one in pair
            ]
            found.append(float(np.abs(levels[0] - levels[1]).mean()))
    return float(np.mean(found))


def chroma(clips: Clips) -> Work:
    """How alike the pitch classes of a clip and of the real one are, frame by frame."""
    measure = partial(_chroma_similarity, clips.audio.sample_rate_hz)
    return each_clip("chroma_similarity", measure)(clips)


def _chroma_similarity(rate_hz: int, wave: Wave, prompt: Wanted) -> float:
    found = [_chroma(_mono(one), rate_hz) for one in (wave, prompt.wave)]
    frames = min(len(one) for one in found)
    a, b = (one[:frames] for one in found)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    is_heard = norms > 0
    if not is_heard.any():
        return np.nan
    return float((np.sum(a * b, axis=1)[is_heard] / norms[is_heard]).mean())


def _chroma(wave: Wave, rate_hz: int) -> Float[np.ndarray, "t c"]:
    import librosa.feature  # here: it takes a second, and only music needs it

    size = 2 ** round(np.log2(CHROMA_S * rate_hz))
    padded = np.pad(wave, (0, max(0, size - len(wave))))
    # The mean over pitch classes is what noise has; what stands out of it is harmony.
    found = librosa.feature.chroma_stft(
        y=padded, sr=rate_hz, n_fft=size, hop_length=size // 4, norm=None, tuning=0.0
    ).T
    return np.maximum(found - found.mean(axis=1, keepdims=True), 0)


def timbre(clips: Clips) -> Work:
    """Distances between the set of clips and the real ones, and how far they spread, in the space
    of timbre.
    """
    return distances_in([space for space in clips.context.spaces if _is_timbre(space)], clips)


def classes(clips: Clips) -> Work:
    """Whether each clip is of the class that was asked for, and the control on the others."""
    probe = clips.context.probe
    space = next((one for one in clips.context.spaces if _is_timbre(one)), None)
    if probe is None or space is None:
        reason = "there are no two classes of real clips"
        control = not_applicable("class_swap", "class_accuracy", reason)
        return Work((), lambda found: Found(controls=[control]))
    asked = [prompt.speaker for prompt in clips.asked]

    def finish(found: list[np.ndarray]) -> Found:
        posterior = np.stack(found)
        place = probe.places(asked)
        is_known = place >= 0
        own = np.where(is_known, posterior[np.arange(len(place)), place], np.nan)
        right = np.where(is_known, posterior.argmax(axis=1) == place, np.nan)
        # The mean of the others: posteriors add up to one.
        others = (1 - own) / (len(probe.classes) - 1)
        strange = int((~is_known).sum())
        note = f"{strange} of {len(asked)} clips are left out: their class has no real clips"
        values = {"class_accuracy": clip_means(right, clips.clusters)}
        swap = label_swap(
            "class_swap",
            "class_accuracy",
            clip_means(own, clips.clusters)._replace(runs=clips.runs),
            others,
            clips.context.config.seed,
        )
        notes = {"class_accuracy": note} if strange else {}
        return Found(values, notes=notes, controls=[swap])

    return Work(jobs_of_clips(partial(_judge, probe, space.embed), clips), finish)


def _judge(
    probe: ClassProbe, embed: Callable[[Wave], np.ndarray], wave: Wave, prompt: Wanted
) -> np.ndarray:
    return probe.posteriors(embed(wave))


def _is_timbre(space: EmbeddingSpace) -> bool:
    return space.suffix == TIMBRE


def _mono(wave: Wave) -> Float[np.ndarray, "s"]:
    return wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)
