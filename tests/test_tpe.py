"""TPE beside a grid of averages, whose decays are not tuned."""

import numpy as np
import pytest
from test_tune import Quiet, finish, two_arms

from genlab.config import GenlabError
from genlab.studies.space import TuningSpace
from genlab.studies.tune import Tuning, ask, tune, unused_settings


def test_tpe_learns_where_every_trial_keeps_a_grid_of_averages():
    best = np.log(1e-3)
    tuning, unused = Tuning(sampler="tpe"), unused_settings(two_arms("optim.ema_powers=[3,5]"))
    assert unused == ("ema_decay",) and unused_settings(two_arms()) == ()
    # Twenty finished trials over the whole range, all of them without a decay of their own.
    finished = []
    for number, rate in enumerate(np.geomspace(3e-4, 1e-2, 20)):
        setting = ask(Tuning(), number + 1, []).model_copy(
            update={"peak_lr": float(rate), "ema_decay": None}
        )
        finished.append(finish(number, setting, float((np.log(rate) - best) ** 2)))

    def miss(trials, unused):
        """Return how far draws lie from the best rate, in nats."""
        drawn = [
            ask(tuning.model_copy(update={"seed": seed}), 20, trials, unused) for seed in range(12)
        ]
        return np.mean([abs(np.log(setting.peak_lr) - best) for setting in drawn])

    # Without a trial it draws at random, which is how it was with a grid.
    assert miss(finished, unused) < 0.7 * miss([], ())
    # What is drawn at random does not depend on whether the decay is used.
    assert ask(Tuning(), 5, finished, unused) == ask(Tuning(), 5, [])


def test_a_range_of_decays_is_refused_where_trials_keep_a_grid(tmp_path):
    tuning = Tuning(space=TuningSpace(ema_decay=(0.5, 0.9)))
    with pytest.raises(GenlabError, match=r"space\.ema_decay=\[0\.5, 0\.9\]: optim\.ema_powers"):
        tune(two_arms("optim.ema_powers=[3,5]"), tuning, tmp_path, Quiet())
