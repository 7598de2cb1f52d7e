"""Lab note: what is a second worker worth when a corpus is encoded?

Question   Do two workers of Apache Beam on two cores encode twice as fast as one on one?
Fixed      A config: its corpus, built before the clock starts, its codec and its units.
Varied     Workers, and the cores that they may use.
Predicted  At least 1.8 times: workers share nothing but the folder that they write to, and what
           is left are their start and the joining of pieces.
Result     docs/encoding.md.

    python sweeps/encoding_table.py DIR quickstart data.corpus.minutes=120

It prints the table; the corpus stays in DIR, the stores are made again.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def encode_on_cores(work: Path, words: list[str], workers: int) -> dict[str, float]:
    """Return how long so many workers take for a config, each with a core of its own."""
    from genlab.cli.encode import ConfigMaterial
    from genlab.codecs.beam import LocalEngine, encode_on
    from genlab.codecs.pieces import Material
    from genlab.load import load_experiment

    # Before anything asks how many there are: XLA would give one worker all of them.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    config = load_experiment(words[0], tuple(words[1:]))
    units, codec = config.data.domain.load_units(), config.data.load_codec()
    material = Material(config.data.build_audio(), codec, units)
    opens = ConfigMaterial(json.dumps(config.to_dict()), material.manifest.root.name)
    began = time.perf_counter()
    store = encode_on(LocalEngine(workers), opens, material, work / f"workers-{workers}")
    return {"clips": store.num_clips, "seconds": time.perf_counter() - began}


def measure_encoding(work: Path, words: list[str]) -> None:
    """Print the rows of encoding on one core and on two; a store that is there counts for none."""
    os.environ["GENLAB_CACHE"] = str(work / "cache")
    print(
        "| workers | clips | seconds | clips/s | of one worker |\n| --- | --- | --- | --- | --- |"
    )
    rates: list[float] = []
    for workers in (1, 2):
        shutil.rmtree(work / f"workers-{workers}", ignore_errors=True)
        command = [sys.executable, __file__, "one", str(work), str(workers), *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rates.append(found["clips"] / found["seconds"])
        cells = [f"{workers}", f"{found['clips']:,}", f"{found['seconds']:.0f}"]
        cells += [f"{rates[-1]:.1f}", f"{rates[-1] / rates[0]:.2f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if sys.argv[1] == "one":
        print(json.dumps(encode_on_cores(Path(sys.argv[2]), sys.argv[4:], int(sys.argv[3]))))
    else:
        measure_encoding(Path(sys.argv[1]).resolve(), sys.argv[2:])
