"""Lab note: at which temperature, guidance and number of calls does each family speak best in
configs/units_to_speech.py?

Question   Which sampler should each arm of configs/units_to_speech.py declare?
Fixed      The trained decoders of one finished comparison, 32 prompts of the *validation* split,
           one codec.
Varied     Eight settings per family from one published grid, calls x temperature x guidance
           (genlab/studies/pareto.py).
Predicted  Before the run: temperature below 1 helps both models of codes, because a few minutes of
           training leave the tails of their softmax untrained; guidance helps every family; fewer
           solver steps than 24 cost quality.
Result     One seed, word error on validation prompts. Temperature: as predicted, and further than
           an earlier sweep of six settings went: AR 0.519 [0.449, 0.592] at 1.0 without guidance,
           0.248 [0.168, 0.338] at 0.6 and 0.105 [0.061, 0.158] at 0.3 with guidance 1.5. Guidance:
           it helps AR (0.203 to 0.105 at 0.3) and hardly moves the others. Calls: masked says as
           much in 15 calls as in 46 (0.218 [0.144, 0.325] against 0.233 [0.169, 0.334]); diffusion
           is at 0.045 to 0.060 in all eight settings, 6 steps included, which was not predicted.
           The quick start declares the best of the eight, the cheapest where several are equally
           good.

    genlab compare configs/units_to_speech.py --out runs/first && python sweeps/sampling_settings.py runs/first wer_ctc

Without a score after the run directory it takes the one that decides. An arm with a head that takes
neither steps nor guidance has few settings, and then every arm tries no more.
"""

import sys
from pathlib import Path

from genlab.load import load_experiment
from genlab.report.console import align
from genlab.studies.pareto import format_fronts, trace_fronts
from genlab.watch.progress import Progress

if __name__ == "__main__":
    run_dir = Path(sys.argv[1])
    with Progress() as progress:
        by = sys.argv[2] if len(sys.argv) > 2 else None
        print(align(format_fronts(trace_fronts(load_experiment(run_dir), run_dir, progress, by))))
