"""A clip cut into chunks, for state spaces: within a chunk frames read each other by matrix
products, between chunks they pass on a state.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Within a chunk the work grows with its square, between chunks with the square of their number.
FIRST_FRAMES, MAX_CHUNKS = 64, 16


def chunk_frames(num_frames: int) -> int:
    """Return how many frames the chunks of a clip have: 64, and twice as many as long as there
    would be more than 16 chunks; all of a shorter clip.
    """
    frames = FIRST_FRAMES
    while frames * MAX_CHUNKS < num_frames:
        frames *= 2
    return min(frames, num_frames)


def in_chunks(x: Float[Array, "b t *rest"]) -> Float[Array, "b m l *rest"]:
    """Return a clip in m chunks of l frames; zeros follow its end."""
    frames = chunk_frames(x.shape[1])
    missing = -x.shape[1] % frames
    padded = jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
    return padded.reshape(x.shape[0], -1, frames, *x.shape[2:])


def out_of_chunks(x: Float[Array, "b m l *rest"], num_frames: int) -> Float[Array, "b t *rest"]:
    """Return the clip again, without what follows its end."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :num_frames]
