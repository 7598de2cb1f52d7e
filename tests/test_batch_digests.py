"""What the digest of a batch sees, of which a resumed run is told its data, and what a chain of
them keeps.
"""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from train_toy import make_source

from genlab.data.batches import Batch, batch_digest
from genlab.run.digests import chain_digest
from genlab.tokens import Cond, Tokens


def test_digest_sees_ids_content_shape_type_and_order():
    batch = make_source().batch_at(0)
    inputs, targets, weight = batch.args
    changed = inputs.copy()
    changed[0, 0] = np.nextafter(changed[0, 0], 9)
    others = [
        batch._replace(clip_ids=batch.clip_ids[::-1]),
        batch._replace(args=(changed, targets, weight)),
        batch._replace(args=(inputs.T, targets, weight)),
        batch._replace(args=(inputs.view(np.int32), targets, weight)),
        batch._replace(args=(targets, inputs, weight)),
    ]
    others += [
        batch._replace(args=(inputs, targets, bump(weight))),  # the last leaf, its last row
        batch._replace(args=(inputs, targets)),
        batch._replace(args=(inputs[:, :4], inputs[:, 4:], targets, weight)),
    ]
    digests = [batch_digest(item) for item in (batch, *others)]
    assert len(set(digests)) == len(digests)
    assert chain_digest(chain_digest("", "a"), "b") != chain_digest(chain_digest("", "b"), "a")


def bump(leaf):
    """Change the last element by the least that its type can tell."""
    changed = np.array(leaf)
    flat = changed.reshape(-1)
    flat[-1] = np.nextafter(flat[-1], np.inf)
    return changed


def test_digest_sees_every_condition():
    """Of tokens and conditions with all of their parts, one changed leaf is another batch."""
    frames = np.zeros((2, 5), np.int32)
    cond = Cond(
        speaker=np.zeros(2, np.int32),
        text=np.zeros((2, 3), np.int32),
        content=frames,
        is_dropped=np.zeros(2, bool),
        other=np.zeros((2, 5, 2), np.int32),
        parts={"mood": np.zeros((2, 4), np.float32)},
    )
    codes, latents = np.zeros((2, 5, 2), np.int32), np.zeros((2, 5, 3), np.float32)
    tokens = Tokens(codes, latents, np.full(2, 5, np.int32))
    batch = Batch((tokens, cond), np.arange(2))
    leaves, treedef = jax.tree.flatten(batch.args)
    assert len(leaves) == 9
    found = {batch_digest(batch)}
    for number, leaf in enumerate(leaves):
        changed = np.array(leaf)
        flat = changed.reshape(-1)
        flat[-1] = not flat[-1] if flat.dtype == bool else flat[-1] + 1
        others = [*leaves[:number], changed, *leaves[number + 1 :]]
        found.add(batch_digest(batch._replace(args=jax.tree.unflatten(treedef, others))))
    assert len(found) == 10


HEX = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(HEX, HEX, HEX, st.integers(0, 15))
def test_a_chain_forgets_nothing(before, batch, other, place):
    """What was read before, and what is read now, count with every digit."""
    changed = before[:place] + format((int(before[place], 16) + 1) % 16, "x") + before[place + 1 :]
    assert chain_digest(before, batch) != chain_digest(changed, batch)
    assert chain_digest(before, batch) != chain_digest(batch, before) or before == batch
    assert (chain_digest(before, batch) == chain_digest(before, other)) == (batch == other)
    turned = batch[:place] + format((int(batch[place], 16) + 1) % 16, "x") + batch[place + 1 :]
    assert chain_digest(before, batch) != chain_digest(before, turned)
