import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.nets.recurrent import LSTM

BATCH, FRAMES, INPUTS, WIDTH = 3, 11, 4, 6
LENGTHS = (11, 7, 1)


def make_lstm(is_bidirectional, num_layers=2, inputs=INPUTS):
    lstm = LSTM(inputs, WIDTH, num_layers, key=jax.random.key(0), is_bidirectional=is_bidirectional)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    state = nnx.state(lstm)
    nnx.update(
        lstm,
        jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), state),
    )
    return lstm


def make_frames():
    return jax.random.normal(jax.random.key(2), (BATCH, FRAMES, INPUTS))


def run_by_hand(recurrence, frames):
    """Return the outputs of one direction over the frames of one example, gate by gate."""
    to_gates, state_to_gates = (
        np.asarray(recurrence.project_in.kernel[...]),
        np.asarray(recurrence.state_weights[...]).T,
    )
    bias = np.asarray(recurrence.biases[...]).sum(0)
    state, memory, outputs = np.zeros(WIDTH), np.zeros(WIDTH), []
    for frame in frames[::-1] if recurrence.is_backward else frames:
        gates = frame @ to_gates + state @ state_to_gates + bias
        enter, keep, candidate, leave = np.split(gates, 4)
        memory = memory / (1 + np.exp(-keep)) + np.tanh(candidate) / (1 + np.exp(-enter))
        state = np.tanh(memory) / (1 + np.exp(-leave))
        outputs.append(state)
    return np.stack(outputs[::-1] if recurrence.is_backward else outputs)


@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_every_example_is_run_by_itself(is_bidirectional, num_layers):
    lstm, frames = make_lstm(is_bidirectional, num_layers), make_frames()
    outputs = np.asarray(
        nnx.jit(lambda lstm, *inputs: lstm(*inputs))(lstm, frames, jnp.array(LENGTHS))
    )
    for row, length in enumerate(LENGTHS):
        expected = np.asarray(frames)[row, :length]
        for layer in lstm.layers:
            expected = np.concatenate(
                [run_by_hand(direction, expected) for direction in layer], axis=-1
            )
        np.testing.assert_allclose(outputs[row, :length], expected, atol=1e-5)
        assert expected.std() > 0.05


@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_without_lengths_every_frame_counts(is_bidirectional):
    lstm, frames = make_lstm(is_bidirectional), make_frames()
    np.testing.assert_allclose(lstm(frames), lstm(frames, jnp.full(BATCH, FRAMES)), atol=1e-6)


@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_what_lies_past_the_end_is_not_read(is_bidirectional):
    lstm, frames, lengths = make_lstm(is_bidirectional), make_frames(), jnp.array(LENGTHS)
    is_own = np.arange(FRAMES) < np.array(LENGTHS)[:, None]
    changed = jnp.where(is_own[..., None], frames, 1e3)
    outputs, expected = (np.asarray(lstm(values, lengths))[is_own] for values in (changed, frames))
    np.testing.assert_array_equal(outputs, expected)


def test_one_direction_is_causal_and_two_are_not():
    frames = make_frames()
    changed = frames.at[:, 5].add(1.0)
    moved = [
        np.abs(np.asarray(lstm(changed) - lstm(frames))).max(axis=(0, 2)) > 1e-6
        for lstm in (make_lstm(False), make_lstm(True))
    ]
    assert moved[0].tolist() == [False] * 5 + [True] * 6
    assert moved[1].all()
