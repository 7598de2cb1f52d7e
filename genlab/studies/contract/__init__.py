"""What a class of your own must keep, tried out at toy size: `genlab check FILE.py:Class`.

In: a config class of a decoder, mixer, feed-forward part, corpus, metric or condition, or the
function that returns a codec. Out: one finding per promise, with what is wrong where it is broken.
The tests of the built-in kinds run the same checks.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import JsonValue

from genlab.config import Config, ConfigError
from genlab.config.errors import one_line
from genlab.config.open import check_own
from genlab.data.recipe import Corpus
from genlab.decoders.parts import ConditionPart
from genlab.decoders.task import DecoderConfig
from genlab.evaluate.own import MetricConfig
from genlab.nets.layer import FeedForward, Mixer
from genlab.run.trust import is_function, load_class
from genlab.studies.contract.codec import check_codec
from genlab.studies.contract.condition import check_condition
from genlab.studies.contract.corpus import check_corpus
from genlab.studies.contract.decoder import check_decoder
from genlab.studies.contract.metric import check_metric
from genlab.studies.contract.mixer import check_feed_forward, check_mixer
from genlab.studies.contract.trial import Finding


def check_target(target: str, overrides: Iterable[str] = ()) -> list[Finding]:
    """Try out what `genlab check` is given: a class of a config, or the function that returns a
    codec.

    Raises:
        ConfigError: if it is neither.
    """
    name = target.rpartition(":")[2]
    # By the custom of Python a class begins with a capital letter.
    if is_function(target) and (target.endswith(".py") or not name[:1].isupper()):
        if overrides := list(overrides):
            raise ConfigError(f"{overrides[0]}: a codec's function takes no fields; leave it out")
        return check_codec(target)
    return check_class(load_class(target), overrides)


def check_class(cls: type[Config], overrides: Iterable[str] = ()) -> list[Finding]:
    """Try out what a class promises.

    Args:
        cls: the config class.
        overrides: FIELD=VALUE for fields whose default is to change, or that have none.

    Raises:
        ConfigError: if it is nothing that has a contract, or a field has neither default nor value.
    """
    values: dict[str, JsonValue] = {}
    try:
        config = cls.from_dict(values, overrides)
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"{cls.__name__}: {one_line(str(error), 300)}; give every field a default, or a value "
            "behind the class: FIELD=VALUE"
        ) from None
    contract, check = _contract_of(config)
    try:
        check_own(config, contract)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return check(config)


def _contract_of(config: Config) -> tuple[type, Callable[[Any], list[Finding]]]:
    """Return the contract that a config is meant to meet, told by what sets it apart, and the check
    of it.
    """
    if hasattr(config, "metrics"):
        return MetricConfig, check_metric
    if hasattr(config, "route") and hasattr(config, "value"):
        return ConditionPart, check_condition
    if hasattr(config, "sampler"):
        return DecoderConfig, check_decoder
    if hasattr(config, "recipe"):
        return Corpus, check_corpus
    if hasattr(config, "chooses") or hasattr(config, "part"):
        return Mixer, check_mixer
    if hasattr(config, "build") and hasattr(config, "flops"):
        return FeedForward, check_feed_forward
    raise ConfigError(
        f"{type(config).__name__}: expected the config of a decoder (it has `sampler`), of a "
        "corpus (it derives from Rendered or ImportConfig), of a mixer (it derives from "
        "PlainMixer), of a feed-forward part (`build` and `flops`), of a metric (`metrics`) or "
        "of a condition (it derives from PlainPart)"
    )
