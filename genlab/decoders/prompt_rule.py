"""How a decoder knows the beginning of a clip that it continues, by its own word.

In: the config of a decoder. Out: its rule, and whether continuations are then drawn from the
conditional law of what was trained. Only such a law can be scored by its draws: the energy of the
next block judges what a prompt is turned into as much as the model.

    exact               the law that was trained is that of what follows, given everything known
    clean prefixes      training showed beginnings clean and learned the rest (`prefix.py`)
    replacement         known frames replace noisy ones, which training never showed
    part hidden         some codes of the prompt are not read when what follows it is drawn
"""

from collections.abc import Mapping
from typing import Final, Literal, Protocol, runtime_checkable

from genlab.decoders.prefix import HasPrefixShare

PromptRule = Literal["exact", "clean prefixes", "replacement", "part hidden"]
CONDITIONAL: Final = ("exact", "clean prefixes")
NOT_DECLARED: Final = "not declared"


@runtime_checkable
class SaysPromptRule(Protocol):
    """The config of a decoder that says how a prompt is known."""

    @property
    def prompt_rule(self) -> PromptRule:
        """How the beginning of a clip is known when it is continued."""
        ...


def describe_prompt_rule(decoder: object) -> PromptRule | Literal["not declared"]:
    """Return the rule of a decoder's config."""
    return decoder.prompt_rule if isinstance(decoder, SaysPromptRule) else NOT_DECLARED


def continues_its_law(decoder: object) -> bool:
    """Return whether continuations are drawn from the conditional law of what was trained; no
    decoder is believed to that does not say so.
    """
    return describe_prompt_rule(decoder) in CONDITIONAL


def note_biased(decoders: Mapping[str, object]) -> str:
    """Return what is wrong with continuations of some arms, and the fix; empty if nothing is.

    Args:
        decoders: the config of each arm's decoder.
    """
    biased = {name: decoder for name, decoder in decoders.items() if not continues_its_law(decoder)}
    if not biased:
        return ""
    told = [f"{name} ({describe_prompt_rule(decoder)})" for name, decoder in biased.items()]
    without = [name for name, one in biased.items() if not isinstance(one, HasPrefixShare)]
    fixes = ["set decoder.prefix_share=0.5"] if len(without) < len(biased) else []
    if without:
        fixes.append(f"{' and '.join(without)} cannot train with prefixes: compare by other scores")
    return (
        f"{', '.join(told)}: a prompt is not known as training showed it, so the energy is "
        f"biased and decides nothing; {'; '.join(fixes)}"
    )


def delayed_rule(share: float, hides_known: bool, plan: object) -> PromptRule:
    """Return the rule of a decoder from left to right.

    Args:
        share: of the training examples that show a prefix.
        hides_known: whether codes of a known frame are read after codes of a later one.
        plan: the units that it predicts, of which a prompt has none; None if it predicts none.
    """
    if plan is not None:
        return "part hidden"
    if not hides_known:
        return "exact"
    return "clean prefixes" if share > 0 else "part hidden"
