"""Lab note: what do a thousand to ten million clips cost a host, before one of them is trained on?

Question   Which costs of data grow with the corpus, and does any of them stop a host of a slice?
Fixed      Clips of one second at 12.5 frames/s with 8 codes a frame, no latents; manifest rows as
           imports write them. Every measurement is a process of its own.
Varied     The number of clips.
Predicted  Opening and memory grow with 36 bytes per row of the manifest and 4 per record of the
           store, which are mapped; examples per second do not depend on the number of clips.
Result     docs/size.md.

    python sweeps/size_table.py DIR docs/size.md 1000 10000 100000 1000000
    python sweeps/size_table.py DIR docs/size.md --prompts 100 1000 10000

DIR holds what is made and is kept: 2.5 GB for a million clips. The second command measures the
evaluation of many prompts, and replaces that part of the page alone: a tiny AR arm with random
weights draws one-second clips, the shipped codec decodes them, three metrics hear them on two
threads and in two processes, and the pages are written.
"""

import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from genlab.codecs.frozen import FrozenCodec
    from genlab.data.record import TokenClip
    from genlab.data.store import TokenStore
    from genlab.experiment import DecoderRun
    from genlab.tokens import Cond

FRAMES, CODEBOOKS, ENTRIES = 13, 8, 2048
STEP_S, BATCH, STEPS = 0.05, 32, 40
SPEAKERS = 1000
RECORDS_PER_PART = 250_000
HEADER = """# Size of the data

Made by `python sweeps/size_table.py DIR docs/size.md {counts}` on 2 cores that other work shared. Seconds are
CPU time, which other load affects less than wall clock, and examples per second are per second of CPU time. Clips are of one second, 12.5 frames/s, 8 codes a
frame. Every size is measured in processes of its own; memory is the peak resident set, which counts mapped pages and what importing costs
({base:.0f} MB with an empty corpus). "Waiting" is the share of the wall clock that {steps} steps of {step_ms:.0f} ms spend on waiting for a batch of {batch}.

| clips | manifest: load | hash | memory | store: open | part files | memory | examples/s | waiting |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
EVALUATION = """
## Evaluation

Made by `python sweeps/size_table.py DIR docs/size.md --prompts {prompts}`: prompts of one second, a tiny AR arm, blocks of {block} prompts; F0,
mel-cepstral distortion and DNSMOS on two threads and in two processes, all clips by the first two and 16 by DNSMOS. Seconds are of wall clock. Memory
is the peak resident set of the main process, after each stage.

| prompts | sampled | memory | scored | memory | pages |
| --- | --- | --- | --- | --- | --- |
{rows}
A block of prompts is drawn by one program over all chips, decoded, and written to FLAC files; a run that is killed goes on after its last whole block. What
stays in memory of a prompt: its row of the manifest, its scores, its transcripts, and its codes while the entropy of codes is taken (some kB each).
Distances between sets hear 256 clips of each set, spread evenly, and say so. TensorBoard has the first 64 prompts, report.html the first 12, and
`listening/` all of them on pages of 50 that play the files of the run.
"""
FOOTER = """
Before there was an index, 1e6 clips cost 2.1 GB and 7 s to load the manifest, 17 s to hash it, 7,800 part files, and a list of all record numbers. An
index is made once, when a corpus is built; below 65,536 rows every row is read and hashed each time. Examples per second fell from 9,000 at 1e3 clips to 4,300
at 1e5 while records were asked for by a list of positions, for which ArrayRecord's reader makes a list per record of the part (0.12 ms at 100,000); a
range of one record takes 3 us everywhere.

## What grows, and what does not

- **Manifest.** Above 65,536 rows `manifest.index.npy` (36 bytes a row) and `manifest.index.json` lie beside it. Loading reads the file once, to compare its
  digest; rows are parsed when they are asked for. The hash is in the index.
- **Store.** Pieces of 128 clips become parts of about 100 MB. `frames.npy` (4 bytes a clip) answers what budgets and prompts ask of all clips.
- **Order.** grain's `MapDataset.shuffle`, a bijection on 32 bits: place i of pass p is a pure function of (seed, p, i) and costs no memory. It is the order
  that runs always had, so old runs resume bitwise; a test pins it.
- **Encoding.** One process, or several workers here or on Dataflow ([encoding.md](encoding.md)).
- **Disk of a host.** Of a shared store above `GENLAB_LOCAL_GB` (100) the parts stay in the bucket ([tpu.md](tpu.md)).

Still linear in memory: speakers are a table; the counts and the lookup baseline read every training clip once and hold their tables; `genlab data` imports a
corpus in one process, some 1.5 kB a row.

## 1e9 clips on v5p-512, on paper

| term | size | of what |
| --- | --- | --- |
| order | 0 | bijection; at most 2^32 clips in a split |
| frames.npy | 4 GB on the disk of each host, mapped | 4 bytes a clip |
| ArrayRecord's own index | 8 GB of memory once every part was read | 8 bytes a record, an estimate; 64 hosts hold it each |
| parts | 4,000 of 100 MB, at the {bytes:.0f} bytes a record of this table | a listing is 4 requests |
| requests | 16 threads x 1 / 30 ms = 530 examples/s a host, if an answer takes 30 ms | more threads if a step needs more |
| manifest index | 36 GB on the disk of the host that encodes | training needs none with tokens of your own |

The index of ArrayRecord is what stops first: beyond some 1e9 clips a host needs a part of the store of its own.
"""


def write_corpus(directory: Path, clips: int) -> None:
    """Write a manifest with its index, the rows one by one."""
    from genlab.data.manifest import Manifest

    raw = directory / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with (raw / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for number in range(clips):
            row = {"id": f"speaker{number % SPEAKERS:04}/clip{number:09}", "licence": "CC0-1.0"}
            row |= {"path": f"audio/{number // 1000:06}/{number:09}.flac", "f0_path": None}
            row |= {"other_path": None, "audio_digest": f"{draw.getrandbits(40):010x}"}
            row |= {"text": f"the {number} words of a sentence", "labels": {}}
            row |= {"speaker": f"s{number % SPEAKERS:04}", "num_samples": 16_000}
            row["split"] = "train" if number % 20 else "test"
            file.write(json.dumps(row, sort_keys=True) + "\n")
    Manifest.load(raw).save(directory)
    (raw / "manifest.jsonl").unlink()


def write_store(directory: Path, clips: int) -> None:
    """Write a token store of random codes."""
    from genlab.data.record import TokenClip
    from genlab.data.store import SplitInfo, StoreInfo, finish_store, write_part
    from genlab.tokens import TokenSpec

    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    units, latents = np.ones(FRAMES, np.int32), np.zeros((FRAMES, 0), np.float32)

    def draw(first: int) -> Iterator[TokenClip]:
        for number in range(first, min(first + RECORDS_PER_PART, clips)):
            codes = rng.integers(0, ENTRIES, (FRAMES, CODEBOOKS))
            speaker = f"s{number % SPEAKERS:04}"
            yield TokenClip(f"clip{number:09}", "a text", speaker, "", codes, latents, units)

    for part, first in enumerate(range(0, clips, RECORDS_PER_PART)):
        write_part(directory / f"part-{part:05d}.array_record", draw(first))
    test = max(2, clips // 20)
    splits = {
        "test": SplitInfo(first=0, clips=test, seconds=float(test)),
        "train": SplitInfo(first=test, clips=clips - test, seconds=float(clips - test)),
    }
    spec = TokenSpec(
        sample_rate_hz=24_000,
        hop_samples=1920,
        codebooks=CODEBOOKS,
        entries=ENTRIES,
        latent_channels=0,
    )
    info = StoreInfo(
        spec=spec,
        codec_fingerprint="none",
        units_fingerprint="none",
        manifest_hash="none",
        num_units=2,
        speakers=tuple(f"s{number:04}" for number in range(SPEAKERS)),
        licences=("CC0-1.0",),
        longest_text=8,
        latent_mean=(),
        latent_std=(),
        splits=splits,
    )
    finish_store(directory, info)


def measure_corpus(directory: Path) -> dict[str, float]:
    """Return the costs of a manifest."""
    from genlab.data.manifest import Manifest

    began = time.process_time()
    manifest = Manifest.load(directory)
    loaded = time.process_time()
    manifest.hash()
    hashed = time.process_time()
    in_order = manifest.in_record_order()
    assert len(manifest.clips) == len(in_order) and in_order[-1].num_samples == 16_000
    return {"load_s": loaded - began, "hash_s": hashed - loaded, "peak_mb": peak_mb()}


def measure_store(directory: Path) -> dict[str, float]:
    """Return the costs of a store, and how much of a step waits for its batches."""
    from genlab.data.batches import BatchSource
    from genlab.data.store import TokenStore, part_paths

    began = time.process_time()
    store = TokenStore(directory)
    opened = time.process_time()
    numbers = store.numbers("train")
    store.frames(numbers).sum()
    dataset = store.dataset("train", num_frames=FRAMES, seed=0)
    asked = time.process_time()
    for place in range(4000):
        dataset[place]
    read = time.process_time()
    batches = BatchSource(dataset, BATCH, threads=store.read_threads).iterate()
    next(batches)
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        asks = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asks
        time.sleep(STEP_S)
    total = time.perf_counter() - start
    batches.close()
    return {
        "open_s": opened - began,
        "examples_per_s": 4000 / (read - asked),
        "waiting": waited / total,
        "parts": len(part_paths(directory)),
        "bytes": sum(path.stat().st_size for path in part_paths(directory)) / store.num_clips,
        "peak_mb": peak_mb(),
    }


def toy_arm(
    directory: Path, codec: "FrozenCodec", prompts: int
) -> "tuple[DecoderRun, TokenStore, Sequence[TokenClip]]":
    """Return an arm, a store in the space of a codec, and prompts of a second with random codes."""
    from genlab.data.corpus import Embedded
    from genlab.data.record import TokenClip
    from genlab.data.store import SplitInfo, StoreInfo, TokenStore, finish_store, write_part
    from genlab.data.streamed import sequence_of
    from genlab.decoders.ar import ARConfig, ARSampler
    from genlab.decoders.conditioning import ConditionConfig
    from genlab.experiment import Arm, Budget, Comparison, TokenData
    from genlab.nets.backbone import BackboneConfig

    spec = codec.spec
    frames, width = round(spec.frame_hz), spec.latent_channels

    def clip(number: int) -> TokenClip:
        rng = np.random.default_rng(number)
        codes = rng.integers(0, spec.entries, (frames, spec.codebooks))
        latents, units = np.zeros((frames, width), np.float32), np.ones(frames, np.int32)
        return TokenClip(f"clip{number:09}", "a text", "s0", "", codes, latents, units)

    if not (directory / "dataset.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_part(directory / "part-00000.array_record", map(clip, range(4)))
        np.save(directory / "code_vectors.npy", codec.code_vectors)
        info = StoreInfo(
            spec=spec,
            codec_fingerprint=codec.fingerprint,
            units_fingerprint="none",
            manifest_hash="none",
            num_units=2,
            speakers=("s0",),
            licences=("CC0-1.0",),
            longest_text=8,
            latent_mean=(0.0,) * width,
            latent_std=(1.0,) * width,
            splits={"train": SplitInfo(first=0, clips=4, seconds=4.0)},
        )
        finish_store(directory, info)
    config = Comparison(
        name="size",
        question="What do many prompts cost?",
        data=TokenData(corpus=Embedded(minutes=1.0), num_frames=frames),
        batch_size=4,
        backbone=BackboneConfig(width=64, layers=2, heads=2),
        condition=ConditionConfig(content="none", speaker=False),
        budget=Budget(train_flops=1e12),
        arms={"ar": Arm(decoder=ARConfig(), sampler=ARSampler())},
        baselines=(),
    )
    return config.run("ar", 0, 1), TokenStore(directory), sequence_of(clip, prompts)


def measure_evaluation(directory: Path, prompts: int) -> dict[str, float]:
    """Return what it takes to sample, score and list prompts with a tiny arm."""
    import jax

    from genlab.codecs.frozen import load_codec
    from genlab.data.audio import AudioFormat
    from genlab.data.drawn import BLOCK_PROMPTS, DrawnWaves
    from genlab.data.streamed import Streamed
    from genlab.data.wave_files import read_waves
    from genlab.evaluate.context import EvaluationConfig, Wanted, build_context
    from genlab.evaluate.metrics import score_clips
    from genlab.evaluate.pitch import PitchTracker
    from genlab.evaluate.quality import Dnsmos
    from genlab.evaluate.table import METRICS
    from genlab.report.listening_pages import write_listening_pages
    from genlab.sample import compile_sampler, conditions, decode

    codec = load_codec()
    run, store, clips = toy_arm(directory / "store", codec, prompts)
    model = run.build_for(store, jax.random.key(0))
    began = time.perf_counter()

    def tell(block: "Sequence[TokenClip]") -> "tuple[Cond, np.ndarray]":
        return conditions(store, block, run.data.num_frames)

    draw, _ = compile_sampler(model, run, *tell(clips[:BLOCK_PROMPTS]))
    samples = directory / f"samples-{prompts}"
    shutil.rmtree(samples, ignore_errors=True)
    waves = DrawnWaves(samples, run.arm.sampler.to_dict(), clips, jax.random.key(0))
    waves.draw(draw, tell, partial(decode, store=store, codec=codec), codec.wave_rate_hz)
    sampled, sampled_mb = time.perf_counter(), peak_mb()
    heard = read_waves(samples, prompts, AudioFormat(codec.wave_rate_hz, codec.channels))
    # The real clip of a prompt is what the next one sounds like.
    wanted = Streamed(lambda i: Wanted(f"{i}", "a text", "s0", heard[(i + 1) % prompts]), prompts)
    named = {"f0_correlation", "mcd", "dnsmos_ovrl"}
    metrics = [metric for metric in METRICS if metric.name in named]
    config = EvaluationConfig(processes=2)
    real = [heard[0], heard[1]]
    context = build_context(config, (), real, "ab", networks=(PitchTracker, Dnsmos))
    row = score_clips(heard, wanted, context, metrics=metrics)
    scored, scored_mb = time.perf_counter(), peak_mb()
    assert row.scores["mcd"].n == prompts
    write_listening_pages(directory, directory, wanted, {"ar": samples}, {"arms": []}, {}, "voice")
    listed = time.perf_counter()
    return {
        "sample_s": sampled - began,
        "sample_mb": sampled_mb,
        "score_s": scored - sampled,
        "score_mb": scored_mb,
        "pages_s": listed - scored,
    }


def peak_mb() -> float:
    """Return the largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def ask(task: str, directory: Path, clips: int = 0) -> dict[str, float]:
    """Do a task in a process of its own, and return what it measured."""
    command = [sys.executable, __file__, task, str(directory), str(clips)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(work: Path, out: Path, counts: list[int]) -> None:
    """Make and measure every size, and write the page; a part of the table is a table."""
    lines, per_record = [], 0.0
    page = out.read_text(encoding="utf-8") if out.exists() else ""
    kept = page.removeprefix(without_evaluation(page))
    write_corpus(work / "empty", 1)
    base = ask("measure_corpus", work / "empty")["peak_mb"]
    header = HEADER.format(
        counts=" ".join(map(str, counts)),
        base=base,
        steps=STEPS,
        step_ms=STEP_S * 1e3,
        batch=BATCH,
    )
    for clips in counts:
        corpus, store = work / f"corpus-{clips}", work / f"store-{clips}"
        if not (corpus / "manifest.jsonl").exists():
            ask("write_corpus", corpus, clips)
        if not (store / "dataset.json").exists():
            ask("write_store", store, clips)
        rows, records = ask("measure_corpus", corpus), ask("measure_store", store)
        per_record = records["bytes"]
        cells = [f"{clips:,}", f"{rows['load_s']:.2f} s", f"{rows['hash_s']:.2f} s"]
        cells += [f"{rows['peak_mb']:.0f} MB", f"{records['open_s']:.2f} s"]
        cells += [f"{records['parts']:.0f}", f"{records['peak_mb']:.0f} MB"]
        cells += [f"{records['examples_per_s']:,.0f}", f"{records['waiting']:.0%}"]
        lines.append("| " + " | ".join(cells) + " |\n")
        footer = FOOTER.format(bytes=per_record)
        out.write_text(header + "".join(lines) + footer + kept, encoding="utf-8")


def tell_evaluation(work: Path, out: Path, counts: list[int]) -> None:
    """Measure the evaluation of so many prompts, and replace that part of the page."""
    from genlab.data.drawn import BLOCK_PROMPTS

    rows = []
    for prompts in counts:
        took = ask("measure_evaluation", work / "evaluation", prompts)
        cells = [f"{prompts:,}", f"{took['sample_s']:.1f} s", f"{took['sample_mb']:.0f} MB"]
        cells += [f"{took['score_s']:.1f} s", f"{took['score_mb']:.0f} MB"]
        rows.append("| " + " | ".join([*cells, f"{took['pages_s']:.1f} s"]) + " |\n")
        text = EVALUATION.format(
            prompts=" ".join(map(str, counts)), block=BLOCK_PROMPTS, rows="".join(rows)
        )
        page = out.read_text(encoding="utf-8")
        out.write_text(without_evaluation(page) + text, encoding="utf-8")


def without_evaluation(page: str) -> str:
    """Return the page without its last part."""
    return page.split(EVALUATION.split("\n\n")[0])[0]


if __name__ == "__main__":
    if "--prompts" in sys.argv:
        at = sys.argv.index("--prompts")
        tell_evaluation(Path(sys.argv[1]), Path(sys.argv[2]), list(map(int, sys.argv[at + 1 :])))
        sys.exit()
    tasks = {"write_corpus": write_corpus, "write_store": write_store}
    measured = {"measure_corpus": measure_corpus, "measure_store": measure_store}
    if sys.argv[1] == "measure_evaluation":
        print(json.dumps(measure_evaluation(Path(sys.argv[2]), int(sys.argv[3]))))
    elif sys.argv[1] in tasks:
        tasks[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
        print("{}")
    elif sys.argv[1] in measured:
        print(json.dumps(measured[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), [int(each) for each in sys.argv[3:]])
