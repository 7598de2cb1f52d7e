"""What `genlab codec` does: describe, load, export, score, bench and probe codecs, or code a file.

In: the parsed arguments. Out: text on standard output, and the files that an action is for.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from genlab.config import GenlabError
from genlab.load import load_experiment
from genlab.runs import CodecRun, RecogniserRun
from genlab.watch.progress import Progress

# of the recogniser's export: content survives, the speaker fades (its JSON has the numbers)
SHIPPED_UNITS = 256


def act_on_codec(arguments: argparse.Namespace) -> None:
    """Do the action that the arguments name.

    Raises:
        GenlabError: if it takes another number of paths.
    """
    actions = {
        "info": (0, _describe_codec),
        "load": (1, _load_codec),
        "export": (2, _export),
        "roundtrip": (2, _roundtrip),
        "score": (1, _score_codec),
        "bench": (1, _bench_codecs),
        "probe": (1, _probe_codecs),
    }
    wanted, act = actions[arguments.action]
    if len(arguments.paths) != wanted:
        raise GenlabError(
            f"codec {arguments.action}: expected {wanted} paths, got {len(arguments.paths)}; see "
            "genlab codec --help"
        )
    act(arguments)


def _describe_codec(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import load_codec

    frozen = load_codec(arguments.codec)
    print(
        json.dumps(
            {"fingerprint": frozen.fingerprint, **frozen.spec.to_dict(), **frozen.metadata},
            indent=1,
        )
    )


def _load_codec(arguments: argparse.Namespace) -> None:
    """Read a published codec, code a second of noise, and print the name that configs take."""
    from genlab.codecs.frozen import load_codec

    name = (
        f"{arguments.paths[0]}:{arguments.weights}"
        if arguments.weights
        else str(arguments.paths[0])
    )
    frozen = load_codec(name)
    # Loading alone proves little: a wrong tensor layout fails, or is heard, only when something is
    # coded.
    noise = 0.1 * np.random.default_rng(0).standard_normal(frozen.spec.sample_rate_hz).astype(
        np.float32
    )
    [(codes, latents)] = frozen.encode([noise])
    [decoded] = frozen.decode_codes([codes]) if codes.shape[1] else frozen.decode_latents([latents])
    spec = frozen.spec
    print(
        json.dumps(
            {"fingerprint": frozen.fingerprint, **spec.to_dict(), **frozen.metadata}, indent=1
        )
    )
    print(
        f"{name}: {spec.frame_hz:g} frames/s, {spec.codebooks} x {spec.entries} entries, "
        f"{spec.bitrate_bps / 1000:.2f} kbit/s; a second of noise became {len(latents)} frames "
        f"and {len(decoded)} samples; use data.codec={name}"
    )


def _export(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import export_codec
    from genlab.data.corpus import Embedded, build_corpus
    from genlab.nets.weights import check_can_save
    from genlab.recognisers.export import export_recogniser
    from genlab.train import load_trained

    run_dir, out = arguments.paths
    # Before the run is loaded: an impossible name should cost nothing.
    check_can_save(out)
    run = load_experiment(run_dir, trust_code=arguments.trust_code)
    if not isinstance(run, CodecRun | RecogniserRun):
        raise GenlabError(
            f"{run_dir}: kind {run.kind!r}, expected the run of a codec or a recogniser"
        )
    training = {"training": _describe_training(run)}
    if isinstance(run, CodecRun):
        facts = export_codec(load_trained(run.build, run_dir), out, training)
    else:
        trained = load_trained(run.build, run_dir)
        manifest = build_corpus(Embedded())
        facts = export_recogniser(trained, manifest, out, training, num_units=SHIPPED_UNITS)
    print(f"{out}: {facts['num_parameters']:,} numbers, {out.stat().st_size / 1e6:.2f} MB")


def _score_codec(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import load_codec
    from genlab.data.audio import SAMPLE_RATE_HZ
    from genlab.evaluate.codecs.score import score_folder

    frozen = load_codec(arguments.codec, SAMPLE_RATE_HZ, arguments.channels or 1)
    print(
        json.dumps(
            score_folder(frozen, arguments.paths[0], arguments.levels, arguments.speakers), indent=1
        )
    )


def _bench_codecs(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import load_codec
    from genlab.data.audio import SAMPLE_RATE_HZ
    from genlab.evaluate.codecs.bench import bench_folder, compare_with_opus, to_json, to_markdown

    codecs = {}
    for name in arguments.codec.split(","):
        frozen = load_codec(name, SAMPLE_RATE_HZ, arguments.channels or 1)
        levels = [
            frozen.spec.codebooks >> shift for shift in range(3) if frozen.spec.codebooks >> shift
        ]
        codecs[name] = (frozen, [arguments.levels] if arguments.levels else [*levels, 0])
    with Progress() as progress:
        rows = bench_folder(codecs, arguments.paths[0], arguments.speakers, progress)
    if arguments.json:
        print(
            json.dumps({"rows": to_json(rows), "against_opus": compare_with_opus(rows)}, indent=1)
        )
    else:
        print(to_markdown(rows))


def _probe_codecs(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import load_codec
    from genlab.data.audio import SAMPLE_RATE_HZ
    from genlab.evaluate.codecs.probe import probe_folder, swap_sides, to_markdown
    from genlab.evaluate.codecs.score import read_folder

    if not arguments.speakers:
        raise GenlabError(
            "codec probe: --speakers missing; name the speakers to test on, the others are used "
            "to fit the probes"
        )
    codecs = {
        Path(names).stem: [load_codec(name, SAMPLE_RATE_HZ) for name in names.split("+")]
        for names in arguments.codec.split(",")
    }
    print(to_markdown(probe_folder(codecs, arguments.paths[0], arguments.speakers)))
    waves, _ = read_folder(arguments.paths[0], arguments.speakers, SAMPLE_RATE_HZ)
    for name, trainings in codecs.items():
        # Swapping sides tells what a side code holds; codecs without one are done.
        if trainings[0].spec.side_channels:
            swapped = swap_sides(trainings[0], waves)
            print(f"\n{name}, decoded with the next speaker's side code: " + json.dumps(swapped))


def _roundtrip(arguments: argparse.Namespace) -> None:
    from genlab.codecs.frozen import load_codec
    from genlab.data.audio import (
        count_channels,
        read_wave,
        to_int16,
        write_audio,
        written_format,
    )
    from genlab.run.ownership import refuse_to_replace

    source, target = arguments.paths
    written_format(target)  # first: a wrong extension must not cost the wait for the codec
    if target.exists() and source.exists() and target.samefile(source):
        raise GenlabError(f"{target}: is the input file itself; write to another file")
    refuse_to_replace(target)
    channels = arguments.channels or count_channels(source)
    frozen = load_codec(arguments.codec, channels=channels)
    rate = frozen.wave_rate_hz
    wave = read_wave(source, sample_rate_hz=rate, channels=channels)
    [(codes, _)] = frozen.encode([wave])
    codes = frozen.keep_levels(codes, arguments.levels)
    [decoded] = frozen.decode_codes([codes])
    write_audio(target, to_int16(decoded[: len(wave)]), sample_rate_hz=rate)
    bits = codes.size * np.log2(frozen.spec.entries)
    print(
        f"{target}: {frozen.audio}, {len(codes)} frames, "
        f"{bits / (len(wave) / rate) / 1000:.2f} kbit/s"
    )


def _describe_training(run: CodecRun | RecogniserRun) -> dict[str, Any]:
    """Return the run without the paths of this machine: what a reader needs to repeat it."""
    values = run.to_dict()
    data = [
        {
            "corpus": item.corpus.kind,
            "share": item.share,
            "licence": getattr(item.corpus, "licence", "Apache-2.0"),
        }
        for item in run.data
    ]
    hidden = ("kind", "settings", "data")
    return {**{name: value for name, value in values.items() if name not in hidden}, "data": data}
