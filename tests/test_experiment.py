"""What a config may say, what is refused beforehand, and which fields change which hash."""

import importlib
import json
import pkgutil
from typing import Annotated

import pydantic
import pytest
from codec_toys import TINY
from comparison_toys import ARMS, make_comparison

import genlab
from genlab.config import Config, ConfigError
from genlab.data.corpus import Embedded
from genlab.data.dialogue import Dialogue
from genlab.data.folder import Folder
from genlab.data.known_entropy import KnownEntropy
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedSampler
from genlab.experiment import Arm, Budget
from genlab.load import load_experiment
from genlab.run.stored import DamagedError
from genlab.runs import CodecRun, CorpusShare
from genlab.train import TrainSettings


def refusal(call, *args):
    with pytest.raises(ConfigError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bacth_size=8", "bacth_size: no such field; did you mean 'batch_size'?"),
        (
            "save_every_steps=9",
            "save_every_steps: no such field; did you mean 'settings.save_every_steps'?",
        ),
        ("optim.peak_lrr=1", "optim.peak_lrr: no such field; did you mean 'optim.peak_lr'?"),
        (
            "arms.ar.decoder.infil_share=0",
            (
                "arms.ar.decoder.infil_share: no such field; did you mean "
                "'arms.ar.decoder.infill_share'?"
            ),
        ),
        ("arms.ar.sampler.kind=masked", "sampler.kind='masked' cannot sample decoder.kind='ar'"),
        ("arms.gan.peak_lr=1", "arms.gan: no such table in this config"),
        ("gan.peak_lr=1", "gan: no such table in this config"),
        (
            "sampler.temperature=1",
            "sampler: which of arms.ar.sampler, arms.masked.sampler, arms.diffusion.sampler?",
        ),
        ("backbone.width=33", "width=33 must be a multiple of 2 * heads=4"),
        ("backbone.width=wide", "backbone.width: Input should be a valid integer (got 'wide')"),
        ("budget.train_flops=null", "mode='iso_flop' takes train_flops and not steps"),
        ("budget.steps=100", "mode='iso_flop' takes train_flops and not steps"),
        ("budget.mode=iso_step", "mode='iso_step' takes steps and not train_flops"),
        ("data.num_frames=0", "data.num_frames: "),
        ("data.corpus.minutes=-1", "data.corpus.minutes: "),
        ("arms.ar.sampler.temperature=-1", "arms.ar.sampler.temperature: "),
        ("seeds=[]", "seeds: "),
        ("seeds=[1,1]", "seeds=(1, 1): each seed is one run, so they must differ"),
        ("arms={}", "arms: "),
        ("name=../elsewhere", "name: "),
        ("prompts_split=train", "prompts must be texts that no arm was trained on"),
        ("num_prompts=1", "num_prompts: "),
        ("seed", "override 'seed': expected FIELD=VALUE"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(override, message):
    assert message in refusal(make_comparison, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.peak_lr=NaN", "optim.peak_lr: Input should be a finite number"),
        ("optim.peak_lr=Infinity", "optim.peak_lr: Input should be a finite number"),
        ("optim.peak_lr=1e999", "optim.peak_lr: Input should be a finite number"),
        (
            "optim.weight_decay=1e-999",
            "optim.weight_decay='1e-999': too small to be distinguished from 0; write 0 or a "
            "larger number",
        ),
        ("optim.peak_lr=1e-320", "optim.peak_lr: expected 0 or a magnitude from 1e-30 to 1e+30"),
        ("budget.train_flops=1e300", "budget.train_flops: expected 0 or a magnitude"),
        (
            "seeds=[0,4294967296,8589934592]",
            "seeds.1: Input should be less than 4294967296 (got 4294967296)",
        ),
        ("data.corpus.seed=4294967296", "data.corpus.seed: Input should be less than 4294967296"),
        ("evaluation.seed=4294967296", "evaluation.seed: Input should be less than 4294967296"),
        (
            "backbone.layers=1000000000",
            "backbone.layers: Input should be less than or equal to 4096",
        ),
        (
            "backbone.width=1000000000",
            "backbone.width: too large; expected a whole number of at most 1048576",
        ),
        (
            "batch_size=" + "9" * 400,
            "batch_size: too large; expected a whole number of at most 1048576",
        ),
        ("optim.peak_lr=" + "9" * 400, "optim.peak_lr: Input should be a finite number"),
        (
            "optim.peak_lr=" + "9" * 9999,
            "optim.peak_lr: '99999999999999999999999999999999999 ... has too many digits",
        ),
        ("batch_size=true", "batch_size: Input should be a valid integer (got True)"),
        ("batch_size=4.0", "batch_size: Input should be a valid integer (got 4.0)"),
        ("optim.peak_lr=true", "optim.peak_lr: Input should be a valid number (got True)"),
        (
            "evaluation.lengths_s=[1e9]",
            "evaluation.lengths_s.0: Input should be less than or equal to 3600",
        ),
        ("equivalence.wer_ctc=NaN", "equivalence.wer_ctc: Input should be a finite number"),
        ("question=a\0b", "question: expected text without NUL characters"),
        ("question=\ud800", "cannot be written as UTF-8"),
        ("name=" + "a" * 101, "name: String should have at most 100 characters"),
        ("question=" + "[" * 100_000, "has too many digits or brackets"),
        (
            "question=" + "[" * 500 + "]" * 500,
            "question.0: nested too deep; expected at most 32 levels",
        ),
    ],
    ids=lambda value: ascii(value[:40]),
)
def test_no_field_holds_a_number_or_text_that_nothing_can_be_done_with(override, message):
    assert message in refusal(make_comparison, override)


def test_what_is_too_large_only_together_is_refused_before_anything_is_allocated():
    text = refusal(make_comparison, "backbone.layers=4096", "backbone.width=1048576")
    assert (
        "layers=4096, width=1048576" in text
        and "parameters, more than 1e+13; lower one of them" in text
    )
    text = refusal(make_comparison, "batch_size=1048576", "data.num_frames=1048576")
    assert (
        "batch_size=1048576 times data.num_frames=1048576: more than 67108864 frames in a batch"
        in text
    )
    with pytest.raises(pydantic.ValidationError, match=r"hold 1.2e[+]13 codes and latents"):
        KnownEntropy(clips=2**20, clip_frames=2**20)


@pytest.mark.parametrize("value", ["1", "true", '"attention"', "null", "[1]", "[]"])
def test_what_is_neither_a_mixer_nor_several_is_refused_by_name(value):
    assert "backbone.mixer" in refusal(make_comparison, f"backbone.mixer={value}")


def test_a_plan_of_codes_is_no_config_of_its_own():
    """Patterns around patterns are put together while a program runs, of any pattern."""
    config = make_comparison("arms.ar.decoder.plan={}")
    assert config.arms["ar"].decoder.step_pattern.codes == config.arms["ar"].decoder.pattern


def test_no_config_takes_a_seed_of_more_than_32_bits():
    """Configs to come as well: three such seeds would be one seed under three names."""
    for module in pkgutil.walk_packages(genlab.__path__, "genlab."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes, fields = [Config], 0
    for cls in classes:  # grows while it is read
        classes += [
            below for below in cls.__subclasses__() if below.__module__.startswith("genlab.")
        ]
        for name, field in cls.model_fields.items():
            if name == "seed":
                kind = field.annotation
                kind = Annotated[kind, *field.metadata] if field.metadata else kind
                adapter = pydantic.TypeAdapter(kind)
                fields += 1
                assert adapter.validate_python(2**32 - 1) == 2**32 - 1
                with pytest.raises(pydantic.ValidationError):
                    adapter.validate_python(2**32)
                    pytest.fail(f"{cls.__module__}.{cls.__name__}.seed takes 2**32")
    assert fields >= 12


def test_errors_are_one_printable_line_of_bounded_length():
    for override in (
        "x" * 9999 + "=1",
        "question.\x1b[31m\n=1",
        "backbone.\u202e=1",
        "arms.ar.a\n.b=" + "y" * 9999,
    ):
        text = refusal(make_comparison, override)
        assert text.isprintable() and len(text) <= 600
    many = refusal(make_comparison, *[f"backbone.{'z' * 200}{number}=1" for number in range(500)])
    assert many.isprintable() and len(many) <= 2100 and many.endswith("and 488 more problems")


def test_tables_around_a_table_may_be_left_out():
    config = make_comparison("profile.steps=5", "settings.profile.start=50")
    assert (config.settings.profile.steps, config.settings.profile.start) == (5, 50)


def test_another_kind_drops_the_fields_of_the_old_one():
    text = refusal(make_comparison, "arms.ar.sampler.kind=diffusion")
    assert text == "arms.ar: sampler.kind='diffusion' cannot sample decoder.kind='ar'"
    both = [
        "arms.ar.sampler.kind=diffusion",
        "arms.ar.decoder.kind=diffusion",
        "arms.ar.sampler.steps=3",
    ]
    changed = make_comparison(*both).arms["ar"]
    assert changed.sampler == DiffusionSampler(steps=3) and changed.decoder == DiffusionConfig()


@pytest.mark.parametrize("order", [1, -1])
def test_another_corpus_is_two_overrides_in_either_order(order):
    config = make_comparison(*["data.corpus.kind=folder", "data.corpus.path=clips"][::order])
    assert config.data.corpus == Folder(path="clips")
    nested = [
        "data.corpus.kind=dialogue",
        "data.corpus.corpus.kind=folder",
        "data.corpus.corpus.path=clips",
    ]
    assert make_comparison(*nested[::order]).data.corpus == Dialogue(corpus=Folder(path="clips"))
    same_kind = make_comparison("data.corpus.kind=embedded", "data.corpus.minutes=2.5").data.corpus
    assert same_kind == make_comparison("data.corpus.minutes=2.5").data.corpus


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.corpus.kind=foldr"],
            "data.corpus.kind: got 'foldr', expected one of 'embedded', 'folder'",
        ),
        (["data.corpus.kind=folder"], "data.corpus.path: missing; give it a value"),
        (
            ["data.corpus.kind=folder", "data.corpus.path=x", "data.corpus.minutes=3"],
            "data.corpus.minutes: no such field",
        ),
        (
            ["data.corpus.kind=dialogue", "data.corpus.corpus.path=x"],
            "data.corpus.corpus.kind: missing; say which kind",
        ),
        (["batch_size=4", "batch_size=8"], "batch_size: given twice, 4 and 8; keep one"),
        (
            ["profile.steps=4", "settings.profile.steps=8"],
            "settings.profile.steps: given twice, 4 and 8",
        ),
        (["num_frames=3"], "num_frames: no such field; did you mean 'data.num_frames'?"),
        (["seed=3"], "seed: no such field; did you mean 'seeds'?"),
        (
            ["data.corups.minutes=3"],
            "data.corups: no such table in this config; did you mean 'data.corpus.minutes'?",
        ),
        (["name=3"], """name: Input should be a valid string (got 3); for text write name='"3"'"""),
        (["=3"], "expected FIELD=VALUE"),
        (["a..b=3"], "expected FIELD=VALUE"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_advice_names_the_whole_path(overrides, message):
    assert message in refusal(make_comparison, *overrides)


def test_all_problems_are_reported_at_once():
    text = refusal(make_comparison, "batch_size=0", "optim.peak_lr=-1", "data.nun_frames=3")
    assert "batch_size: " in text and "optim.peak_lr: " in text
    assert "data.nun_frames: no such field; did you mean 'data.num_frames'?" in text


def test_a_list_is_not_called_short_because_of_what_is_wrong_inside_it():
    values = {
        "name": "c",
        "steps": 1,
        "batch_size": 1,
        "codec": TINY.to_dict(),
        "crop_samples": TINY.hop_samples,
    }
    values["data"] = [{"corpus": {"kind": "embedded", "minutes": -1.0}}]
    text = refusal(CodecRun.from_dict, values)
    assert text == "data.0.corpus.minutes: Input should be greater than 0 (got -1.0)"
    assert "data: Tuple should have at least 1 item" in refusal(
        CodecRun.from_dict, {**values, "data": []}
    )


def test_a_missing_field_is_named():
    values = make_comparison().to_dict()
    del values["arms"]["ar"]["decoder"], values["question"]
    text = refusal(type(make_comparison()).from_dict, values)
    assert "question: missing" in text and "arms.ar.decoder: missing" in text


def test_guidance_needs_dropped_conditions():
    text = refusal(make_comparison, "arms.masked.sampler.guidance=2", "condition.dropout=0.0")
    assert "arms.masked.sampler.guidance=2" in text and "condition.dropout=0.1" in text


@pytest.mark.parametrize("name", ["real", "codec_floor_codes", "lookup", "bigram", "a/b", "", "é"])
def test_arms_may_not_take_the_name_of_another_row_or_directory(name):
    values = make_comparison().to_dict()
    values["arms"][name] = values["arms"]["ar"]
    assert "arms" in refusal(type(make_comparison()).from_dict, values)


def test_wrong_python_configs_raise_at_construction():
    with pytest.raises(pydantic.ValidationError, match="cannot sample"):
        Arm(decoder=ARConfig(), sampler=MaskedSampler())
    with pytest.raises(pydantic.ValidationError, match="takes steps"):
        Budget(mode="iso_step")
    with pytest.raises(pydantic.ValidationError, match="crop_samples=1000 must be a multiple of"):
        CodecRun(
            name="c",
            steps=1,
            batch_size=1,
            codec=TINY,
            crop_samples=1000,
            data=(CorpusShare(corpus=Embedded()),),
        )


CONFIG = """
from comparison_toys import make_comparison
from genlab.nets.backbone import BackboneConfig

def config():
    {body}
"""


def write(tmp_path, body):
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG.format(body=body))
    return path


def test_a_config_file_and_its_json_are_the_same_experiment(tmp_path):
    path = write(tmp_path, "return make_comparison()")
    config = load_experiment(path, ("batch_size=5",))
    assert config.batch_size == 5
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert load_experiment(tmp_path) == load_experiment(str(tmp_path / "config.json")) == config
    assert load_experiment(tmp_path, ("batch_size=6",)).batch_size == 6


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return BackboneConfig(widht=8)", "widht: no such field; did you mean 'width'?"),
        ("return BackboneConfig(width=31)", "must be a multiple of 2 * heads"),
        ("return BackboneConfig()", "expected a function config() that returns one of"),
        ("return nothing", "experiment.py:{line}: NameError: name 'nothing' is not defined"),
        ("return (", "experiment.py:{line}: SyntaxError: '(' was never closed"),
        (
            "raise SystemExit(0)",
            "experiment.py:{line}: SystemExit: 0; a config returns its value, it does not exit",
        ),
        ("raise KeyError('a')", "experiment.py:{line}: KeyError: 'a'"),
        ("raise BaseException", "experiment.py:{line}: BaseException"),
        (
            "raise type('Odd', (Exception,), dict(__str__=lambda self: 1 / 0))",
            "experiment.py:{line}: Odd",
        ),
        (
            "return config()",
            "experiment.py:{line}: RecursionError: maximum recursion depth exceeded",
        ),
        ("open('no such file')", "experiment.py:{line}: FileNotFoundError: [Errno 2] No such file"),
        ("return make_comparison('bacth_size=1')", "did you mean 'batch_size'?"),
    ],
)
def test_a_wrong_config_file_is_one_line(tmp_path, body, message):
    line = CONFIG[: CONFIG.index("{body}")].count("\n") + 1
    assert message.format(line=line) in refusal(load_experiment, write(tmp_path, body))


def test_files_that_are_no_config(tmp_path):
    assert "no such file" in refusal(load_experiment, tmp_path / "missing.py")
    assert "no such file; give a config file" in refusal(load_experiment, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        DamagedError, match=r"config\.json: damaged: expected JSON, got .* at line 1 column 2"
    ):
        load_experiment(tmp_path)
    for text, message in (("[]", "kind None"), ('{"kind": "gan"}', "kind 'gan'")):
        (tmp_path / "config.json").write_text(text)
        assert message in refusal(load_experiment, tmp_path)
    (tmp_path / "notes.txt").write_text("no config")
    assert "expected a Python file or a config.json" in refusal(
        load_experiment, tmp_path / "notes.txt"
    )


def test_how_a_run_is_watched_does_not_change_its_hash():
    config = make_comparison()
    run = config.run("ar", 0, steps=10)
    watched = run.model_copy(
        update={"settings": TrainSettings(log_every=1, save_every_s=None), "name": "other"}
    )
    assert watched.digest(exclude={"settings", "name"}) == run.digest(exclude={"settings", "name"})
    assert watched.slug.removeprefix("other-") == run.slug.removeprefix("ar-")
    assert run.digest() == make_comparison().run("ar", 0, steps=10).digest()
    slugs = [run.slug, config.run("ar", 1, steps=10).slug, config.run("ar", 0, steps=11).slug]
    slugs.append(make_comparison("arms.ar.decoder.infill_share=0.2").run("ar", 0, steps=10).slug)
    slugs.append(make_comparison("backbone.layers=3").run("ar", 0, steps=10).slug)
    assert len(set(slugs)) == 5


def test_the_comparison_key_is_what_arms_must_share():
    key = make_comparison().comparison_key()
    for same in (
        "arms.ar.peak_lr=0.1",
        "arms.masked.sampler.temperature=0.5",
        "name=b",
        "settings.log_every=3",
    ):
        assert make_comparison(same).comparison_key() == key, same
    assert make_comparison().model_copy(update={"arms": {"ar": ARMS["ar"]}}).comparison_key() == key
    different = [
        make_comparison(override).comparison_key()
        for override in (
            "data.corpus.minutes=2.0",
            "data.num_frames=17",
            "data.codec=other",
            "batch_size=5",
            "budget.train_flops=3e10",
            "condition.dropout=0.2",
            "prompts_split=valid",
            "num_prompts=5",
            "seeds=[1]",
            "backbone.layers=3",
            "evaluation.dnsmos_clips=3",
        )
    ]
    assert len({key, *different}) == 12


def test_an_arm_becomes_a_run_with_its_own_learning_rate():
    config = make_comparison("arms.ar.peak_lr=0.01", "seeds=[3]")
    assert config.run("ar", 3, 7).optim.peak_lr == 0.01
    other = config.run("masked", 3, 7)
    assert other.optim == config.optim and (other.seed, other.steps, other.batch_size) == (3, 7, 4)
    assert (
        other.data == config.data
        and other.backbone == config.backbone
        and other.arm == ARMS["masked"]
    )
    assert other.arm.sampler != ARSampler()
