"""LSTM layers over time, in one direction or both, for batches of clips that end at different
frames.

In: frames "b t c". Out: frames "b t h" (or "b t 2h": forward, then backward). The backward
direction starts at each clip's own last frame, so a clip gives the same result alone and in a batch
of longer ones. Equations of Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000),
gates in the order input, forget, candidate, output.

What a frame gives to its gates is one product for all frames before the scan; inside it only the
product with the previous state is left. With one clip that reads a whole matrix per frame for
little arithmetic, so memory bounds it, and XLA:CPU is up to 1.3 times as fast when every output
reads consecutive weights: they are stored [out, in].
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from genlab.machine.sharding import WHOLE
from genlab.nets.convolution import valid_frames
from genlab.nets.linear import Linear
from genlab.nets.param import matrix, vector


class Recurrence(nnx.Module):
    """One direction of one LSTM layer. There are two biases because published files hold two; only
    their sum counts.
    """

    def __init__(self, inputs: int, width: int, *, key: Key[Array, ""], is_backward: bool = False):
        in_key, state_key = jax.random.split(key)
        self.project_in = Linear(inputs, 4 * width, key=in_key, split=WHOLE)
        weights = width**-0.5 * jax.random.normal(state_key, (4 * width, width))
        self.state_weights = matrix(weights, WHOLE)
        self.biases = vector(jnp.zeros((2, 4 * width)))
        self.is_backward = is_backward

    def __call__(
        self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b t h"]:
        """Return the output of every frame."""
        weights = self.state_weights[...].astype(frames.dtype)
        gates = (
            self.project_in(frames) + self.biases[...].astype(frames.dtype).sum(axis=0)[None, None]
        )
        # Scans run over the first axis: b t h -> t b h.
        over_time = [gates.swapaxes(0, 1)]
        if num_frames is not None:
            over_time.append(valid_frames(frames.shape[1], num_frames, frames.dtype).swapaxes(0, 1))

        def step(carry, inputs):
            (state, memory), (from_frame, *is_own) = carry, inputs
            gates = from_frame + jnp.einsum("bh,gh->bg", state, weights)
            enter, keep, candidate, leave = jnp.split(gates, 4, axis=-1)
            memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
            if is_own:
                # A backward scan reaches a clip from its right: state and memory stay zero until
                # its last frame.
                memory = memory * is_own[0]
            state = jax.nn.sigmoid(leave) * jnp.tanh(memory)
            return (state, memory), state

        start = jnp.zeros((frames.shape[0], weights.shape[1]), frames.dtype)
        _, states = lax.scan(step, (start, start), over_time, reverse=self.is_backward)
        # t b h -> b t h
        return states.swapaxes(0, 1)


class LSTM(nnx.Module):
    """Layers of `width` outputs per direction; a bidirectional layer reads both directions of the
    one below.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        num_layers: int,
        *,
        key: Key[Array, ""],
        is_bidirectional: bool = False,
    ):
        directions = 2 if is_bidirectional else 1
        keys = jax.random.split(key, (num_layers, directions))
        self.layers = nnx.List(
            [
                nnx.List(
                    [
                        Recurrence(
                            width * directions if layer else inputs,
                            width,
                            key=keys[layer, i],
                            is_backward=i == 1,
                        )
                        for i in range(directions)
                    ]
                )
                for layer in range(num_layers)
            ]
        )

    def __call__(
        self, frames: Float[Array, "b t c"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b t h"]:
        """Return the outputs of the last layer; with `num_frames` they are zero past each example's
        end.
        """
        for layer in self.layers:
            frames = jnp.concatenate(
                [direction(frames, num_frames) for direction in layer], axis=-1
            )
        return frames
