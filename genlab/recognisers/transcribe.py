"""A trained recogniser as the rest of the lab uses it: frozen, compiled, identified.

In: waves of any length, as a list or as rows of a padded array. Out: strings by greedy CTC decoding
(the best symbol of each frame, repeats merged, blanks dropped). No language model corrects the
result, so an error in the audio stays an error in the text. Waves are sorted by length and run in
batches of a few shapes, so a corpus costs a few compilations; neither padding nor batch mates
change the result.

The recogniser measures its input against the whole clip, so the silence of somebody who waits for
their turn would drown the speech: what lies further than `MARGIN_S` outside of it is not read.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import JsonValue

from genlab.data.audio import as_waves
from genlab.data.text import decode_text
from genlab.recognisers.ctc import Recogniser, RecogniserConfig

BATCH_CLIPS = 16
BUCKET_FRAMES = 64
# Silence is 40 dB below the peak. Clips of a corpus of utterances have shorter margins and are read
# whole.
SILENCE = 0.01
MARGIN_S = 0.15


class FrozenRecogniser:
    """A recogniser whose parameters do not change any more.

    Attributes:
        fingerprint: 10 hex digits of the SHA-256 of the weights.
        metadata: training command, data, licence and measured scores, as they were written beside
            the weights.
        graph: structure of the model, and
        state: its parameters, for `nnx.merge(graph, state)` inside a compiled function.
    """

    def __init__(self, model: Recogniser, fingerprint: str, metadata: dict[str, JsonValue]):
        self.config = model.config
        self.fingerprint = fingerprint
        self.metadata = metadata
        self.graph, state = nnx.split(model)
        self.state = nnx.as_pure(state)
        self._best_symbols = self.compile(
            lambda model, *batch: jnp.argmax(model.logits(*batch), axis=-1)
        )

    def compile(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Return `function(model, *batch)` compiled, with the model bound; parameters are
        arguments, not constants.
        """
        compiled = jax.jit(lambda state, *batch: function(nnx.merge(self.graph, state), *batch))
        return lambda *batch: compiled(self.state, *batch)

    def transcribe(
        self,
        waves: Sequence[Float[np.ndarray, "s"]],
        num_samples: Int[np.ndarray, "b"] | None = None,
    ) -> list[str]:
        """Return the text of each wave.

        Args:
            waves: float waves at 16 kHz, a list or the rows of an array.
            num_samples: the valid samples of each wave; all of them if absent.
        """
        best = map_speech(self._best_symbols, waves, num_samples, self.config)
        return [collapse(symbols) for symbols in best]


def collapse(symbols: Int[np.ndarray, "t"]) -> str:
    """Merge repeats, drop blanks (0) and return the text: `hh_e_ll_l_oo` reads `hello`."""
    symbols = np.asarray(symbols)
    is_new = np.ones(len(symbols), bool)
    is_new[1:] = symbols[1:] != symbols[:-1]
    return " ".join(decode_text(symbols[is_new & (symbols > 0)]).split())


def map_speech(
    compiled: Callable[[Float[np.ndarray, "b s"], Int[np.ndarray, "b"]], Array],
    waves: Sequence[Float[np.ndarray, "s"]],
    num_samples: Int[np.ndarray, "b"] | None,
    config: RecogniserConfig,
) -> list[Int[np.ndarray, "t"]]:
    """Return the symbols that `compiled(waves, num_samples)` gives the frames of each wave; 0 far
    from any speech.
    """
    waves = as_waves(waves)
    counts = [len(wave) for wave in waves] if num_samples is None else num_samples
    waves = [wave[:count] for wave, count in zip(waves, counts)]
    spans = [find_speech(wave, config) for wave in waves]
    read = map_waves(
        compiled, [wave[span] for wave, span in zip(waves, spans)], None, config.hop_samples
    )
    results = []
    for wave, span, frames in zip(waves, spans, read):
        whole = np.zeros(-(-len(wave) // config.hop_samples), frames.dtype)
        first = span.start // config.hop_samples
        whole[first : first + len(frames)] = frames
        results.append(whole)
    return results


def find_speech(wave: Float[np.ndarray, "s"], config: RecogniserConfig) -> slice:
    """Return the samples that hold speech and a margin, from the begin of a frame."""
    loud = np.flatnonzero(np.abs(wave) > SILENCE * np.abs(wave).max(initial=0))
    if not len(loud):
        return slice(0, len(wave))
    margin = round(MARGIN_S * config.sample_rate_hz)
    first = max(0, int(loud[0]) - margin) // config.hop_samples * config.hop_samples
    return slice(first, min(len(wave), int(loud[-1]) + 1 + margin))


def map_waves(
    compiled: Callable[[Float[np.ndarray, "b s"], Int[np.ndarray, "b"]], Array],
    waves: Sequence[Float[np.ndarray, "s"]],
    num_samples: Int[np.ndarray, "b"] | None,
    hop_samples: int,
) -> list[np.ndarray]:
    """Return the frames that `compiled(waves, num_samples)` gives each wave, in the order of
    `waves`.
    """
    counts = np.array(
        [len(wave) for wave in waves] if num_samples is None else num_samples, np.int32
    )
    results: list[np.ndarray] = [np.zeros(0)] * len(counts)
    order = np.argsort(counts, kind="stable")
    for first in range(0, len(order), BATCH_CLIPS):
        chosen = order[first : first + BATCH_CLIPS]
        frames = -(-counts[chosen] // hop_samples)
        bucket = max(1, -(-int(frames.max()) // BUCKET_FRAMES)) * BUCKET_FRAMES
        batch = np.zeros((BATCH_CLIPS, bucket * hop_samples), np.float32)
        # rows that fill up the last batch hold no samples
        batch_counts = np.zeros(BATCH_CLIPS, np.int32)
        batch_counts[: len(chosen)] = counts[chosen]
        for row, number in zip(batch, chosen):
            row[: counts[number]] = np.asarray(waves[number])[: counts[number]]
        output = np.asarray(compiled(batch, batch_counts))
        for row, number, valid in zip(output, chosen, frames):
            results[number] = row[:valid]
    return results
