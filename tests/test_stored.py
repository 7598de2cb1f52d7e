"""JSON that is damaged or hostile is refused in one line or read right; nothing else comes out of
any reader.
"""

import json
import os
import shutil
import zlib
from pathlib import Path

import json_toys
import numpy as np
import pydantic
import pytest
from comparison_toys import make_comparison
from json_toys import damage
from listen_toys import answer, make_test
from sweep_toys import make_sweep
from typing_extensions import TypedDict

from genlab.codecs import dac, encodec, frozen, mimi, oobleck, published, speechtokenizer
from genlab.config import GenlabError
from genlab.data.folder import ImportReport
from genlab.data.manifest import MANIFEST_NAME, Manifest
from genlab.evaluate.rows import load_row
from genlab.listen.key import digest_key
from genlab.listen.ratings import merge_answers
from genlab.load import load_experiment
from genlab.nets.weights import load_metadata, read_header
from genlab.recognisers import shipped
from genlab.report.additions import read_crossings, read_fronts, read_listening, read_tuning
from genlab.report.console import format_results
from genlab.report.inputs import read_audit, read_ledger, read_results, read_scores
from genlab.report.page import render_page
from genlab.report.written import render_csv, render_markdown
from genlab.run.status import lock_run, read_status, track_status
from genlab.run.stored import DamagedError, Number, parse_stored, read_again, read_stored
from genlab.sample import has_samples, read_facts
from genlab.studies.tune import Trial
from genlab.sweeps.page import expand
from genlab.sweeps.runs import read_state, run_directory

MUTATIONS = int(os.environ.get("GENLAB_MUTATIONS", 40))
FORGIVEN = ("row.json", "trial.json", "status.json")  # made again
RESULTS, LEDGER = json_toys.whole_results(), json_toys.whole_ledger()


def render(results, ledger=LEDGER, **additions):
    shown = {**results, **additions}
    assert render_markdown(shown, ledger) and render_csv(shown) and render_page(shown, ledger, [])
    return format_results(shown, ledger)


def use_results(path):
    read_scores(path.parent)
    return render(read_results(path.parent))


def use_header(path):
    if path.is_dir():
        return read_header(path)
    content = path.read_bytes()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    read_header(path)
    return published.read_tensors([path], 1 << 20)


def use_answers(path):
    shutil.copy(path.with_name("kept key.json"), path.with_name("key.json"))
    return merge_answers([path], path.parent)


def use_key(path):
    """Answers belong to the key, whatever is in it."""
    values = json.loads(path.with_name("kept answers.json").read_text())
    values["key_sha256"] = "" if path.is_dir() else digest_key(path.read_bytes())
    path.with_name("answers.json").write_text(json.dumps(values))
    return merge_answers([path.with_name("answers.json")], path.parent)


def use_attempts(path):
    run = expand(make_sweep())[0]
    directory = run_directory(path.parent, run)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, directory / path.name) if path.is_dir() else shutil.copy(
        path, directory / path.name
    )
    return read_state(run, path.parent)


def use_status(path):
    with lock_run(path.parent), track_status(path.parent, 0, 3) as beat:
        beat(1)
    return use_attempts(path)


def use_row(path):
    row = load_row(path)
    return row and [values.by_run() for values in row.per_clip.values()]


def use_published(config_class):
    return lambda path: config_class.describe(path.parent).spec


def use_manifest(path):
    path.rename(path.with_name(MANIFEST_NAME))
    return Manifest.load(path.parent).hash()


KEY, DIGEST, _ = make_test(num_prompts=2)
ANSWERS = answer(KEY, DIGEST, "jo", lambda row, prompt: 95.0, lambda a, b, prompt: a)
CLIP = {
    "id": "a",
    "path": "a.flac",
    "text": "t",
    "speaker": "s",
    "split": "test",
    "num_samples": 9,
    "licence": "CC0",
}
CLIP |= {"labels": {"take": 1}, "f0_path": None, "audio_digest": "0a", "other_path": None}
STATUS = {
    "state": "running",
    "step": 3,
    "heartbeat": 1e9,
    "host": "h",
    "pid": 7,
    "steps": 9,
    "attempt": 1,
    "error": "x",
}
FACTS = {
    "network_calls": 3,
    "wall_s": 1.0,
    "audio_s": 2.0,
    "latency_s": 0.5,
    "latency_audio_s": 1.0,
}
FACTS |= {
    "first_audio_s": 0.1,
    "compile_s": 1.0,
    "by_length": {"2": {"latency_s": 1.0, "flops": 1e9}},
}
TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
DOCUMENTS = {
    "results.json": (RESULTS, use_results),
    "ledger.json": (LEDGER, lambda path: render(RESULTS, read_ledger(path.parent))),
    "tuning.json": (
        json_toys.whole_tuning(),
        lambda path: render(RESULTS, tuning=read_tuning(path)),
    ),
    "pareto.json": (
        json_toys.whole_fronts(),
        lambda path: render(RESULTS, pareto=read_fronts(path.parent)),
    ),
    "crossover.json": (
        json_toys.whole_crossings(),
        lambda path: render(RESULTS, crossover=read_crossings(path.parent)),
    ),
    "listen/listening.json": (
        json_toys.whole_listening(),
        lambda path: render(RESULTS, listening=read_listening(path.parents[1])),
    ),
    "audit.json": (RESULTS["audit"], lambda path: render(RESULTS, audit=read_audit(path))),
    "row.json": (json_toys.whole_row(), use_row),
    "status.json": (STATUS, use_status),
    "attempts.json": ([{"exit": 1, "seconds": 2.0, "reason": "x", "ended": 1e9}] * 2, use_attempts),
    "trial.json": (
        json_toys.whole_tuning()["arms"]["ar"]["trials"][0],
        lambda path: read_again(path, Trial, doing=""),
    ),
    "samples.json": (FACTS, lambda path: (has_samples(path.parent), read_facts(path.parent))),
    "config.json": (make_comparison().to_dict(), lambda path: load_experiment(path).digest()),
    "answers.json": (ANSWERS, use_answers),
    "key.json": (json.loads(KEY.serialise()), use_key),
    "weights.json": (
        load_metadata(frozen.weights_path(frozen.SHIPPED)),
        lambda path: frozen._read_shape(path)[0].spec,
    ),
    "units.json": (
        load_metadata(shipped.weights_path(shipped.SHIPPED)),
        lambda path: shipped._read_shape(path, load_metadata(path)),
    ),
    "x.safetensors": ({"a": TENSOR, "__metadata__": {"format": "pt"}}, use_header),
    "manifest row": (CLIP, use_manifest),
    "report.json": (
        {"used": 1, "used_s": 2.0, "skipped": [{"path": "a", "reason": "b"}], "notes": ["c"]},
        lambda path: ImportReport.load(path.parent).summary(),
    ),
    **{
        f"{config_class.__name__}/config.json": (values, use_published(config_class))
        for config_class, values in {
            mimi.MimiConfig: {
                "sampling_rate": 24000,
                "num_quantizers": 32,
                "hidden_size": 512,
                "rope_parameters": {},
            },
            encodec.EncodecConfig: {
                "sampling_rate": 24000,
                "target_bandwidths": [1.5, 24.0],
                "hidden_size": 128,
            },
            dac.DacConfig: {
                "model_type": "dac",
                "downsampling_ratios": [2, 4],
                "upsampling_ratios": [4, 2],
            },
            oobleck.OobleckConfig: {
                "sampling_rate": 44100,
                "downsampling_ratios": [2, 4],
                "channel_multiples": [1, 2],
            },
            speechtokenizer.SpeechTokenizerConfig: {
                "activation": "ELU",
                "n_q": 8,
                "strides": [8, 5, 4, 2],
            },
        }.items()
    },
}


def prepare(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.with_name("kept key.json")).write_bytes(KEY.serialise())
    (path.with_name("kept answers.json")).write_text(json.dumps(ANSWERS))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_damaged_file_is_refused_in_one_line_or_read_right(tmp_path, name):
    values, use = DOCUMENTS[name]
    if name != "x.safetensors":  # its tensors are not there
        use(prepare(tmp_path / "whole", name, json.dumps(values).encode()))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    refused = 0
    for number in range(MUTATIONS):
        path = prepare(tmp_path / str(number), name, damage(values, rng))
        try:
            use(path)
        except GenlabError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < 2100
            refused += 1
    assert refused > MUTATIONS / 10 or name in FORGIVEN


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_directory_in_place_of_a_file_is_refused(tmp_path, name):
    path = prepare(tmp_path, name, b"")
    path.unlink()
    path.mkdir()
    if name == "status.json":
        assert read_status(tmp_path) == {}
    elif name in FORGIVEN:
        assert DOCUMENTS[name][1](path) is None
    else:
        with pytest.raises(GenlabError) as error:
            DOCUMENTS[name][1](path)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


class Toy(TypedDict):
    name: str
    values: list[Number]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected JSON, got an empty file"),
        (b"\xff", "expected UTF-8, got byte 0"),
        (
            b"{",
            (
                "expected JSON, got expecting property name enclosed in double quotes at line 1 "
                "column 2"
            ),
        ),
        (b"[" * 99_999, "expected at most 64 levels, got more"),
        (b"[" * 70 + b"]" * 70, "expected at most 64 levels, got more"),
        (b'{"name": "a", "name": "b"}', "field name: expected once, got 2 times"),
        (b'{"name": "a", "values": [NaN]}', "field 'values': expected a finite number, got nan"),
        (b'{"name": "a", "values": [1e999]}', "field 'values': expected a finite number, got inf"),
        (
            b'{"name": "a", "values": [1e101]}',
            "field 'values': expected a number below 1e+100, got a larger one",
        ),
        (b'{"name": "a", "values": [' + b"9" * 5000 + b"]}", "Exceeds the limit (4300 digits)"),
        (b'{"name": "\\ud800", "values": []}', "field 'name': expected text, got a lone surrogate"),
        (b'{"values": []}', "field name: expected a value, got none"),
        (b'{"name": "a", "values": [0, "x"]}', 'field values.1: expected a valid number, got "x"'),
        (b'{"name": "a", "values": [true]}', "field values.0: expected a valid number, got true"),
        (b"[]", "expected an object, got []"),
        (b'{"name": 3, "values": 4}', "field name: expected a valid string, got 3 (and 1 more)"),
    ],
)
def test_the_reader_names_the_field_what_was_expected_and_the_fix(content, told):
    with pytest.raises(DamagedError) as error:
        parse_stored(content, Toy, path=Path("a/b.json"), fix="delete it")
    assert str(error.value).startswith("a/b.json: damaged: ") and told in str(error.value)
    assert str(error.value).endswith("; delete it") and "\n" not in str(error.value)


def test_the_reader_returns_what_was_written(tmp_path):
    assert read_stored(tmp_path / "none.json", Toy, fix="") is None
    (tmp_path / "a.json").write_text('{"name": "Zo\\u00eb", "values": [1, 2.5]}')
    assert read_stored(tmp_path / "a.json", Toy, fix="") == {"name": "Zoë", "values": [1.0, 2.5]}
    kept = pydantic.with_config(pydantic.ConfigDict(extra="allow"))(TypedDict("Kept", {"a": int}))
    (tmp_path / "a.json").write_text('{"a": 1, "later": [{"x": null}]}')
    assert read_stored(tmp_path / "a.json", kept, fix="") == {"a": 1, "later": [{"x": None}]}


def test_nothing_in_a_text_report_acts(tmp_path):
    evil = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) | ![b](http://x)"
    results = {
        **RESULTS,
        "question": evil,
        "command": f"```\n{evil}",
        "commit": evil,
        "method": [evil],
        "mode": evil,
    }
    results |= {
        "versions": {"jax": evil},
        "arms": [{**arm, "title": evil} for arm in RESULTS["arms"]],
    }
    for arm in results["arms"]:
        arm["scores"] = {
            k: {**v, "unit": evil, "note": "=cmd|' /C calc'!A0"} for k, v in arm["scores"].items()
        }
    text = render_markdown(results, {**LEDGER, "stamp": evil})
    fence = text[text.index("## Reproduce") :].split("\n")[2]
    assert fence == "````"  # longer than any run of backticks in it
    before, code, after = text.split(f"\n{fence}\n")
    assert evil in code
    for part in (before, after):
        assert "<img" not in part and "](" not in part
    rows = render_csv(results).splitlines()
    assert (
        "'=cmd|" in rows[1]
        and ",=cmd" not in "\n".join(rows)
        and ",-" not in rows[1].replace(",-0", "")
    )
