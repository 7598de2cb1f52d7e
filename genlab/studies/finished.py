"""A finished run as a library sees it: its model, config, codec, prompts and scores, for a notebook
or an own script.

In: the directory of a comparison, or of one of its trained arms. Out: `FinishedRun`, whose parts
are loaded when they are first asked for. Model and prompts need the token store, which is opened
from the cache or encoded again.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from genlab.codecs.frozen import FrozenCodec
from genlab.config import Config, GenlabError
from genlab.data.store import TokenClip, TokenStore
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row
from genlab.evaluate.scores import ClipValues, Score
from genlab.experiment import Comparison, DecoderRun
from genlab.load import load_experiment
from genlab.sample import choose_prompts, compile_sampler, conditions, decode
from genlab.tokens import Decoder
from genlab.train import load_trained

NUM_PROMPTS = 8  # of an arm that was trained without a comparison around it


class FinishedRun:
    """One trained arm and what its comparison found.

    Attributes:
        directory: of the trained arm.
        config: the run, with every setting.
        comparison: the comparison that it belongs to, None for an arm that was trained alone.
    """

    def __init__(self, directory: Path, config: DecoderRun, comparison: Comparison | None):
        self.directory = directory
        self.config = config
        self.comparison = comparison

    @property
    def arm(self) -> str:
        """The name of the arm."""
        return self.directory.parent.name

    @cached_property
    def model(self) -> Decoder:
        """The trained decoder, with averaged parameters if the run kept them."""
        model: Any = load_trained(
            lambda key: self.config.build_for(self.store, key), self.directory
        )
        return model

    @cached_property
    def codec(self) -> FrozenCodec:
        """The codec of its tokens; refused for tokens that never were audio."""
        return self.config.data.load_codec()

    @cached_property
    def store(self) -> TokenStore:
        """The tokens that it was trained on, and the prompts among them."""
        return self.config.data.open(parts=self.config.condition.parts)

    @cached_property
    def prompts(self) -> Sequence[TokenClip]:
        """The held-out clips whose conditions the comparison sampled, in its order."""
        comparison = self.comparison
        split, count = (
            ("test", NUM_PROMPTS)
            if comparison is None
            else (comparison.prompts_split, comparison.num_prompts)
        )
        return choose_prompts(self.store, self.config.data, split, count)

    def sample(
        self, *, sampler: Config | None = None, prompts: int | None = None, seed: int = 0
    ) -> list[Float[np.ndarray, "_"]]:
        """Return one wave per prompt, at `codec.wave_rate_hz`.

        Args:
            sampler: of the family; the one of the run if absent.
            prompts: only so many of the prompts, the first ones.
            seed: of the draws.

        Raises:
            GenlabError: if the sampler is of another family.
        """
        chosen = self.prompts[:prompts]
        run = self.config
        if sampler is not None:
            if type(sampler) is not type(run.arm.sampler):
                raise GenlabError(
                    f"sampler: got {type(sampler).__name__}, expected "
                    f"{type(run.arm.sampler).__name__}, the sampler of arm {self.arm!r}"
                )
            # Not validated again: the sampler was when it was made, and its family is right.
            run = run.model_copy(update={"arm": run.arm.model_copy(update={"sampler": sampler})})
        cond, num_frames = conditions(self.store, chosen, run.data.num_frames)
        model: Any = self.model
        compiled, _ = compile_sampler(model, run, cond, num_frames)
        return decode(compiled(cond, num_frames, jax.random.key(seed)), self.store, self.codec)

    @property
    def scores(self) -> dict[str, Score]:
        """Every score of the arm with its interval, over all training seeds."""
        return self._row.scores

    @property
    def per_clip(self) -> dict[str, ClipValues]:
        """The values per clip behind the scores, of all training seeds: totals, weights, clusters,
        runs.
        """
        return self._row.per_clip

    @cached_property
    def _row(self) -> RowResult:
        path = self.directory.parents[2] / "rows" / f"{self.arm}.json"
        row = load_row(path) if self.comparison is not None else None
        if row is None:
            raise GenlabError(
                f"{path}: no scores of this arm; `genlab compare` scores the arms that it trained"
            )
        return row


def load_run(
    directory: Path | str, *, arm: str | None = None, seed: int | None = None
) -> FinishedRun:
    """Return a finished run from its directory.

    Args:
        directory: of a comparison, or of one trained arm of it (`arms/NAME/seedN`).
        arm: which arm of a comparison; its only one if absent.
        seed: which training seed; the first of the comparison if absent.

    Raises:
        GenlabError: if there is no trained arm, or several and none is named.
    """
    directory = Path(directory)
    config = load_experiment(directory)
    if isinstance(config, DecoderRun):
        # RUN_DIR/arms/NAME/seedN: the comparison that the arm is part of, if it was.
        around = directory.resolve().parents[2]
        found = load_experiment(around) if (around / "config.json").is_file() else None
        return FinishedRun(
            directory.resolve(), config, found if isinstance(found, Comparison) else None
        )
    if not isinstance(config, Comparison):
        raise GenlabError(
            f"{directory}: a run of kind {config.kind!r}, expected a comparison or a trained arm "
            "of one"
        )
    if arm is None and len(config.arms) > 1:
        raise GenlabError(
            f"{directory}: holds several arms; give arm=, one of {', '.join(config.arms)}"
        )
    arm = next(iter(config.arms)) if arm is None else arm
    if arm not in config.arms:
        raise GenlabError(f"arm={arm!r}: expected one of {', '.join(config.arms)}")
    seed = config.seeds[0] if seed is None else seed
    if seed not in config.seeds:
        raise GenlabError(f"seed={seed}: expected one of {', '.join(map(str, config.seeds))}")
    trained = (directory / "arms" / arm / f"seed{seed}").resolve()
    run = load_experiment(trained)
    return FinishedRun(trained, run, config)
