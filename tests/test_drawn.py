"""Many prompts are drawn block by block: a kill loses one block, memory holds one, and the numbers
of a prompt depend neither on its neighbours nor on the chips.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import drawing_toys
import jax
import numpy as np
import pytest
from drawing_toys import RATE_HZ, SAMPLES_PER_FRAME, Toy

from genlab.data import drawn
from genlab.data.audio import AudioError, AudioFormat
from genlab.data.drawn import BLOCK_PROMPTS, STATE, DrawnWaves, block_key, decode_blocks
from genlab.data.streamed import IN_MEMORY, Streamed
from genlab.data.wave_files import read_waves, wave_path
from genlab.machine.rows import ALONE, RowSplit, all_chips, fill_rows
from genlab.machine.sharding import ShardingConfig

# Of latents with deviation 1 after six steps of a two-layer network in float32: other orders of
# summation move them by some 6 x 2 x 1e-7 x 32.
ROUNDING = 1e-4


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.flac")}


def start(directory: Path, *arguments: int) -> subprocess.CompletedProcess:
    command = [sys.executable, drawing_toys.__file__, str(directory), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["ar", "masked", "diffusion"])
def test_numbers_of_a_prompt_depend_on_its_place_alone(tmp_path, name):
    toy, key = Toy(tmp_path, 6, name), jax.random.key(3)
    four = RowSplit(tuple(jax.local_devices()[:4]))
    all_six = toy.compile(6)(*toy.tell(toy.clips), key).tokens
    found = {
        "fewer neighbours": toy.compile(4)(*toy.tell(toy.clips[:4]), key).tokens,
        "four chips, filled up": toy.compile(6, four)(*toy.tell(toy.clips), key).tokens,
        "filled up": toy.compile(6)(*toy.tell(toy.clips[:4]), key).tokens,
    }
    other = toy.compile(6)(*toy.tell(toy.clips), jax.random.key(4)).tokens
    for what, tokens in found.items():
        rows = len(tokens.num_frames)
        assert rows == (6 if "chips" in what else 4)
        if tokens.codes is not None:
            np.testing.assert_array_equal(tokens.codes, all_six.codes[:rows], what)
            assert (np.asarray(other.codes) != all_six.codes).any()
        else:
            np.testing.assert_allclose(tokens.latents, all_six.latents[:rows], 0, ROUNDING, what)
            assert np.abs(np.asarray(other.latents) - all_six.latents).max() > 100 * ROUNDING


def test_chips_are_those_of_the_mesh_and_rows_are_filled_up_for_them():
    assert all_chips(ShardingConfig()) is ALONE
    four = all_chips(ShardingConfig(data=2, fsdp=2))
    assert four.devices == tuple(jax.local_devices()[:4])
    assert [four.fit(count) for count in (1, 4, 5, 64)] == [4, 4, 8, 64]
    assert ALONE.fit(5) == 5
    rows = fill_rows((np.arange(3), np.arange(6).reshape(3, 2)), 5)
    np.testing.assert_array_equal(rows[0], [0, 1, 2, 0, 0])
    np.testing.assert_array_equal(rows[1], [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]])
    placed = four.split(np.arange(8))
    assert [shard.data.tolist() for shard in placed.addressable_shards] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]


def test_few_prompts_are_one_block_with_the_plain_key():
    key = jax.random.key(0)
    assert block_key(key, 0) is key
    drawn_again = [jax.random.fold_in(key, number) for number in range(64)]
    keys = [*drawn_again, *(block_key(one, 1) for one in (key, *drawn_again)), block_key(key, 2)]
    assert len({tuple(jax.random.key_data(one).tolist()) for one in keys}) == len(keys)


def test_a_call_that_stopped_goes_on_after_its_last_whole_block(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "BLOCK_PROMPTS", 4)
    toy = Toy(tmp_path / "store", 10)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    draw, told = toy.compile(4), []
    measured = {"units": {"ahead": 2, "most": 8}}

    def run(directory, decode=toy.decode, seed=0):
        calls = []

        def counted(cond, num_frames, key):
            calls.append(len(num_frames))
            return draw(cond, num_frames, key)

        waves = toy.waves(directory, seed)
        found = waves.draw(
            counted,
            toy.tell,
            decode,
            RATE_HZ,
            measure=lambda *_: measured,
            progress=told.append,
        )
        return calls, found

    calls, found = run(whole)
    assert calls == [4, 4, 2] and told == [1, 2, 3, 4, 5, 6]
    assert found["measured"] == measured and found["wall_s"] > 0

    def stop(out):
        if len(out.tokens.num_frames) == 2:
            raise KeyboardInterrupt
        return toy.decode(out)

    with pytest.raises(KeyboardInterrupt):
        run(cut, stop)
    assert json.loads((cut / STATE).read_text())["blocks"] == 2 and len(files(cut)) == 8
    calls, found = run(cut)
    assert calls == [2] and found["measured"] == measured
    assert files(cut) == files(whole) and len(files(whole)) == 10
    # The second block has numbers of its own, not those of the first.
    heard = read_waves(whole, 10, AudioFormat(RATE_HZ, 1))
    assert any((heard[i] != heard[4 + i]).any() for i in range(4))
    # What was drawn by another key, and what cannot be read, is drawn again.
    assert run(cut, seed=1)[0] == [4, 4, 2] and files(cut) != files(whole)
    (cut / STATE).write_text("{")
    assert run(cut)[0] == [4, 4, 2] and files(cut) == files(whole)
    toy.waves(cut).finish()
    assert not (cut / STATE).exists()


def test_only_the_very_same_prompts_by_the_same_sampler_go_on(tmp_path):
    """Two prompts are kept; then each thing by itself is another one, and nothing is kept."""
    clips = drawing_toys.SOURCE.fresh_clips(3, 16)
    sampler, key = {"steps": 4}, jax.random.key(0)

    def run(directory, *, is_heard=True, **other):
        drawn = []
        facts = {"sampler": sampler, "clips": clips[:2], "key": key, **other}
        DrawnWaves(tmp_path / directory, **facts, is_heard=is_heard).draw(
            lambda cond, num_frames, key: drawn.append(len(num_frames)),
            lambda block: (None, np.zeros(len(block))),
            lambda out: [np.zeros(100, np.float32)] * 2,
            RATE_HZ,
        )
        return drawn

    assert run("same") == [2] and run("same") == [] and len(files(tmp_path / "same")) == 2
    for number, other in enumerate(
        ({"sampler": {"steps": 5}}, {"clips": clips[1:]}, {"key": jax.random.key(1)})
    ):
        assert run(str(number)) == [2] and run(str(number), **other) == [2], other
    # What nobody hears is drawn for what it costs, and not kept.
    assert run("silent", is_heard=False) == [2] and not files(tmp_path / "silent")


def test_codes_are_decoded_once_for_what_they_are(tmp_path):
    decoded = []

    def decode(views):
        decoded.append(len(views))
        return [np.zeros(100, np.float32)] * len(views)

    views = [np.zeros((4, 2), np.int32)] * 3
    for of, times in (("a", 1), ("a", 1), ("b", 2)):
        decode_blocks(tmp_path, decode, views, RATE_HZ, of)
        assert decoded == [3] * times


def test_killed_processes_lose_one_block_and_memory_holds_one(tmp_path):
    prompts = 4 * BLOCK_PROMPTS + 5
    killed = start(tmp_path / "cut", prompts, 2)
    assert killed.returncode == -signal.SIGKILL
    assert len(files(tmp_path / "cut")) == 2 * BLOCK_PROMPTS
    again = start(tmp_path / "cut", prompts)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split()[0]) == 3  # blocks
    few, many = start(tmp_path / "few", BLOCK_PROMPTS), start(tmp_path / "whole", prompts)
    assert files(tmp_path / "whole") == files(tmp_path / "cut")
    assert len(files(tmp_path / "whole")) == prompts
    grown_mb = float(many.stdout.split()[1]) - float(few.stdout.split()[1])
    kept_mb = (prompts - BLOCK_PROMPTS) * 16 * SAMPLES_PER_FRAME * 4 / 1e6
    # A block more than few prompts need may be alive while the next one is decoded.
    assert grown_mb < kept_mb / 2, f"{kept_mb:.0f} MB would be all waves"


def test_many_files_are_read_when_asked_for(tmp_path):
    toy = Toy(tmp_path / "store", IN_MEMORY + 1)
    toy.waves(tmp_path).draw(toy.compile(IN_MEMORY), toy.tell, toy.decode, RATE_HZ)
    audio = AudioFormat(RATE_HZ, 1)
    few, many = (read_waves(tmp_path, count, audio) for count in (IN_MEMORY, IN_MEMORY + 1))
    assert isinstance(few, list) and isinstance(many, Streamed)
    for one, other in zip(few, many):
        np.testing.assert_array_equal(one, other)
    wave_path(tmp_path, 3).unlink()
    assert len(few[3]) == len(many[4])
    with pytest.raises(AudioError, match="prompt03"):
        many[3]
