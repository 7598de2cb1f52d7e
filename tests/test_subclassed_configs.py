"""A nested config of a type that config.json cannot name is refused, at every place where a config
is nested.
"""

import pydantic
import pytest
from codec_toys import TINY
from comparison_toys import make_comparison

from genlab.config import Config
from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig
from genlab.decoders.latent_ar import LatentARConfig
from genlab.decoders.masked import MaskedConfig
from genlab.load import load_experiment
from genlab.nets.backbone import BackboneConfig
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.runs import CodecRun, CorpusShare

COMPARISON = make_comparison()
# a class of the user's own may stand there, under its own kind
OPEN = ("decoder", "sampler", "mixer", "ffn", "corpus")
ROOTS = {
    "comparison": COMPARISON,
    "decoder run": COMPARISON.run("ar", seed=0, steps=3),
    "codec run": CodecRun(
        name="codec",
        steps=1,
        batch_size=1,
        codec=TINY,
        data=(CorpusShare(corpus=Embedded(minutes=1.0)),),
        crop_samples=TINY.hop_samples,
    ),
    "period of mixers": BackboneConfig(width=32, layers=2, heads=2, mixer=(Attention(), Dilated())),
    "head": LatentARConfig(),
}


def nested(node, path=()):
    """Yield the path to every config inside a config."""
    if isinstance(node, Config):
        items = [(name, getattr(node, name)) for name in type(node).model_fields]
    elif isinstance(node, dict):
        items = list(node.items())
    elif isinstance(node, tuple):
        items = list(enumerate(node))
    else:
        return
    for name, value in items:
        if isinstance(value, Config):
            yield (*path, name)
        yield from nested(value, (*path, name))


def at(node, path):
    for name in path:
        node = getattr(node, name) if isinstance(node, Config) else node[name]
    return node


def put(node, path, value):
    """Return `node` with `value` at `path`, every config around it built again and so validated."""
    if not path:
        return value
    name, *rest = path
    inner = put(at(node, [name]), rest, value)
    if isinstance(node, Config):
        return type(node)(
            **{**{field: getattr(node, field) for field in type(node).model_fields}, name: inner}
        )
    if isinstance(node, dict):
        return {**node, name: inner}
    return (*node[:name], inner, *node[name + 1 :])


def subclassed(value, extra):
    cls = pydantic.create_model(
        f"My{type(value).__name__}", __base__=type(value), extra=(float, 0.0)
    )
    return cls.model_construct(**dict(value), extra=extra)


CASES = [(root, path) for root, node in ROOTS.items() for path in nested(node)]


def test_the_cases_hold_every_kind_of_place():
    ends = {path[-1] for _, path in CASES}
    assert {
        "decoder",
        "sampler",
        "pattern",
        "mixer",
        "ffn",
        "head",
        "corpus",
        "optim",
        "codec",
        "condition",
    } <= ends
    assert ("period of mixers", ("mixer", 1)) in CASES and ("comparison", ("arms", "ar")) in CASES


@pytest.mark.parametrize(
    ("root", "path"),
    CASES,
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else part,
)
def test_a_subclass_is_refused_by_name(root, path):
    value = at(ROOTS[root], path)
    with pytest.raises(pydantic.ValidationError) as error:
        put(ROOTS[root], path, subclassed(value, 3.0))
    text, parent = str(error.value), type(value).__name__
    if hasattr(value, "kind") and (path[-1] in OPEN or path[-2:-1] == ("mixer",)):
        assert (
            f"My{parent} has the kind {value.kind!r} of {parent}" in text
            and "give it a kind of its own" in text
        )
    else:
        assert f"got a My{parent}, which config.json could not name" in text
        assert parent in text.split("expected exactly one of")[1]


def test_what_validation_does_not_see_still_changes_the_digest():
    """`model_copy` does not validate; the dump follows the run-time type, so two configs never
    share a digest.
    """
    masked = MaskedConfig()
    arm = COMPARISON.arms["masked"]
    digests = {arm.digest()}
    for extra in (3.0, 99.0):
        copy = arm.model_copy(update={"decoder": subclassed(masked, extra)})
        assert copy.to_dict()["decoder"]["extra"] == extra
        digests.add(copy.digest())
    assert len(digests) == 3


def test_a_config_file_that_returns_a_subclass_is_refused(tmp_path):

    path = tmp_path / "mine.py"
    path.write_text(
        "from comparison_toys import make_comparison\nfrom genlab.experiment import Comparison\n"
        "class Mine(Comparison):\n    extra: int = 1\n"
        "def config():\n    return Mine(**dict(make_comparison()))\n"
    )
    with pytest.raises(Exception, match="expected a function config\\(\\) that returns one of"):
        load_experiment(path)


def test_one_more_field_at_the_top_changes_the_digest():
    class Mine(ARConfig):
        extra: float = 0.0

    assert len({ARConfig().digest(), Mine(extra=3).digest(), Mine(extra=99).digest()}) == 3
