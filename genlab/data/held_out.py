"""How to hold more clips of a corpus out of training: the override that a person can paste.

In: the config of a corpus, and which of its splits is too small. Out: `FIELD=VALUE`, or "" where
the corpus draws no such split.
"""

from typing import Any

FRACTIONS = (0.2, 0.4)  # of the texts: what to hold out where too little was


def larger_share(corpus: Any, split: str, field: str = "data.corpus") -> str:
    """Return the override that makes a drawn split larger.

    Args:
        corpus: its config; conversations are made of another corpus, which draws the splits.
        split: the name of the split.
        field: where a config of a run has the corpus.
    """
    name = f"{'pair' if split == 'test_pair' else split}_fraction"
    share = getattr(corpus, name, None)
    made_of = getattr(corpus, "made_of", None)
    if share is None and made_of is not None:
        return larger_share(made_of, split, f"{field}.corpus")
    larger = next((step for step in FRACTIONS if share is not None and step > share), None)
    return "" if larger is None else f"{field}.{name}={larger}"
