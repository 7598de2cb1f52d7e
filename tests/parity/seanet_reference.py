"""What the comparisons of SEANet codecs with their references share: entries to draw, and how to
compare.
"""

import numpy as np


def spread_entries(codebooks, latents):
    """Draw entries in place around what each level has to quantise; as built they are zero, and
    every code would be 0.

    `codebooks` are torch tensors [v d] and `latents` is one [n d].
    """
    for entries in codebooks:
        centre = latents.mean(0)
        entries.normal_(std=(latents - centre).std().item()).add_(centre)
        distances = (latents[:, None] - entries).square().sum(-1)
        latents = latents - entries[distances.argmin(-1)]


def relative_error(found, expected):
    """Return the largest difference, in parts of the reference's peak."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def check_codes(found, expected, latents, code_vectors):
    """Check that codes [b t k] are the reference's, but for ties: where rounding decides between
    two entries.
    """
    found, left = np.asarray(found), np.asarray(latents)
    is_same_so_far = np.ones(found.shape[:2], bool)
    for level, entries in enumerate(np.asarray(code_vectors)):
        ours, theirs = (
            np.square(left - entries[codes[..., level]]).sum(-1) for codes in (found, expected)
        )
        assert (np.abs(ours - theirs) <= 1e-4 * theirs)[is_same_so_far].all()
        # Past a tie the two quantise different things.
        is_same_so_far &= found[..., level] == expected[..., level]
        left = left - entries[expected[..., level]]
        assert len(np.unique(expected[..., level])) > 10
    assert (found == expected).mean() > 0.99
