"""Digests of batches, chained over a run."""

import hashlib

import numpy as np
from jaxtyping import UInt32


def combine_digests(examples: UInt32[np.ndarray, "b"]) -> str:
    """Return the digest of a batch from those of its examples."""
    return hashlib.sha256(examples.astype("<u4").tobytes()).hexdigest()[:16]


def chain_digest(running: str, batch: str) -> str:
    """Return the running hash after one more batch; start from an empty string."""
    return hashlib.sha256((running + batch).encode()).hexdigest()[:16]
