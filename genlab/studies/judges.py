"""What scores the trained models of one arm while it is tuned, on validation prompts alone.

In: a comparison, its tuning and the prompts. Out: a function of a trained model and its run.
"""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from genlab.data.store import TokenClip, TokenStore
from genlab.evaluate.content import word_errors
from genlab.evaluate.scores import ClipValues, clip_means
from genlab.evaluate.table import find_metric
from genlab.experiment import Comparison, DecoderRun
from genlab.forecasts.draws import BlockEnergy, sampler_behind
from genlab.recognisers.shipped import load_recogniser
from genlab.sample import compile_sampler, conditions, decode
from genlab.studies.space import Tuning

Judge = Callable[[nnx.Module, DecoderRun], ClipValues]


def make_judge(
    config: Comparison, tuning: Tuning, store: TokenStore, clips: Sequence[TokenClip]
) -> Judge:
    """Return what scores the trained models of one arm on validation prompts; the sampler is
    compiled once.
    """
    texts = [clip.text for clip in clips]
    units = tuple(config.data.domain.unit_of(clip) for clip in clips)
    # Energy needs no codec and no recogniser, so neither is loaded.
    if find_metric(tuning.by).needs == "tokens":
        draws = max(2, config.evaluation.energy_draws)
        energy: BlockEnergy | None = None

        def measure_energy(model: nnx.Module, run: DecoderRun) -> ClipValues:
            nonlocal energy
            if energy is None:
                energy = BlockEnergy(run, store, clips, sampler_behind(tuning.by, run, store))
            return clip_means(energy(model, num_draws=draws, seed=tuning.seed), units)

        return measure_energy
    codec = config.data.load_codec()
    recogniser = load_recogniser()
    compiled = None
    cond, num_frames = conditions(store, clips, config.data.num_frames)

    def count_errors(model: nnx.Module, run: DecoderRun) -> ClipValues:
        # Trials of one arm share shapes, and so one compiled sampler.
        nonlocal compiled
        if compiled is None:
            compiled, _ = compile_sampler(model, run, cond, num_frames)
        waves = decode(
            compiled.of(model)(cond, num_frames, jax.random.key(tuning.seed)), store, codec
        )
        return ClipValues(*word_errors(recogniser.transcribe(waves), texts), units)

    return count_errors
