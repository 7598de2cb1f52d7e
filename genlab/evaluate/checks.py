"""What is known of scores and controls before anything is trained: which will be there, and why
others will not.

In: the prompts and the reference, which need no audio. Out: `Check`s, which preflight.py collects.
"""

import importlib.util
from typing import NamedTuple

from genlab.config.shipped import install_command
from genlab.data.manifest import Clip
from genlab.data.text import has_symbols
from genlab.evaluate.any_table import CLASS_ACCURACY
from genlab.evaluate.context import EvaluationConfig, has_classes
from genlab.evaluate.domains import Domain
from genlab.evaluate.metric import Metric
from genlab.evaluate.reference import Reference

FEWEST = 2  # units below which nothing has an interval


class Check(NamedTuple):
    """Scores, or a control, by name: whether they will be there, and what to know about that."""

    names: tuple[str, ...]
    runs: bool
    note: str = ""

    def describe(self) -> str:
        """Return one line."""
        return f"{', '.join(self.names)}: {'yes' if self.runs else 'no'}" + (
            f", {self.note}" if self.note else ""
        )


def label_checks(domain: Domain, prompts: list[Clip], reference: Reference) -> list[Check]:
    """Return what is known of the scores that follow a clip's label, its speaker or its class."""
    checks = _voice_checks(prompts, reference) if domain.has("speaker_similarity") else []
    if domain.has(CLASS_ACCURACY.name):
        can_tell = has_classes([clip.speaker for clip in reference.common])
        note = "" if can_tell else "there are no two classes of real clips"
        checks.append(Check((CLASS_ACCURACY.name,), can_tell, note))
    return checks


def _voice_checks(prompts: list[Clip], reference: Reference) -> list[Check]:
    strange = sum(clip.speaker not in reference.speakers for clip in prompts)
    if strange == len(prompts):
        note = "no prompted speaker has real speech apart from the prompts"
        return [Check(("speaker_similarity", "speaker_accuracy"), False, note)]
    note = ""
    if strange:
        note = (
            f"{strange} of {len(prompts)} prompts are left out: no other speech of their speakers"
        )
    has_others = len(reference.speakers) > 1
    why = note if has_others else "there is one speaker"
    return [
        Check(("speaker_similarity",), True, note),
        Check(("speaker_accuracy",), has_others, why),
    ]


def find_fate(metric: Metric, evaluation: EvaluationConfig, real: int) -> tuple[bool, str]:
    """Return whether a metric is measured, given the settings and the number of real clips, and
    what to know of it.
    """
    if metric.switch and not getattr(evaluation, metric.switch):
        return False, f"evaluation.{metric.switch}=0"
    if real < metric.fewest_real:
        found = f"only {real} real clip{'s' * (real != 1)} to compare with"
        return False, f"{found}, {metric.fewest_real} needed"
    if missing := [name for name in metric.packages if importlib.util.find_spec(name) is None]:
        return False, f"not installed: {', '.join(missing)}; `{install_command('codec')}`"
    return True, "codec floors only" if metric.is_of_floors else ""


def no_text_swap(prompts: list[Clip]) -> str:
    """Return why texts cannot be swapped, "" if they can."""
    texts = [clip.text for clip in prompts if has_symbols(clip.text)]
    largest = max((texts.count(text) for text in set(texts)), default=0)
    if not texts:
        return "the prompts have no text"
    if 2 * largest > len(texts) or len(texts) < FEWEST:
        return f"{largest} of {len(texts)} prompts with text have the same one"
    return ""


def no_label_swap(prompts: list[Clip], reference: Reference, label: str) -> str:
    """Return why labels, speakers or classes, cannot be swapped, "" if they can."""
    if len(reference.speakers) < FEWEST:
        return f"there is no other {label} to compare with"
    if not any(clip.speaker in reference.speakers for clip in prompts):
        real = "real speech" if label == "speaker" else "real clips"
        return f"no prompted {label} has {real} apart from the prompts"
    return ""
