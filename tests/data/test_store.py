import itertools
import json
import shutil

import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.codecs.cache import encode_corpus
from genlab.config import GenlabError
from genlab.data.batches import BatchSource, batch_digest
from genlab.data.digests import EDGE_BYTES, digest_edges, write_digests
from genlab.data.record import pack_clip, unpack_clip
from genlab.data.store import (
    SCHEMA,
    StoreInfo,
    TokenClip,
    TokenStore,
    finish_store,
    part_paths,
    write_part,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    return encode_corpus(make_manifest(root, 12), make_frozen(), LoudnessUnits(), root)


@pytest.fixture
def copied(store, tmp_path):
    return shutil.copytree(store.directory, tmp_path / "copy")


def refusal(directory, fingerprint=None):
    with pytest.raises(GenlabError) as error:
        TokenStore(directory, fingerprint)
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(0, 40),
    codebooks=st.integers(1, 9),
    channels=st.integers(1, 33),
    names=st.lists(st.text(max_size=20), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_packed_clip_comes_back(frames, codebooks, channels, names, seed):
    rng = np.random.default_rng(seed)
    clip = TokenClip(
        *names,
        codes=rng.integers(0, 2**15, (frames, codebooks)),
        latents=rng.standard_normal((frames, channels)).astype(np.float16).astype(np.float32),
        units=rng.integers(1, 2**15, frames),
        other=rng.integers(0, 2**15, (frames, codebooks)) if seed % 2 else None,
    )
    again = unpack_clip(pack_clip(clip))
    assert (again.other is None) == (clip.other is None)
    assert again[:4] == clip[:4]
    for name, dtype in (("codes", np.int32), ("latents", np.float32), ("units", np.int32)):
        np.testing.assert_array_equal(getattr(again, name), getattr(clip, name))
        assert getattr(again, name).dtype == dtype


def test_views_of_different_length_are_refused():
    clip = TokenClip("a", "", "s", "a.flac", np.zeros((5, 3)), np.zeros((5, 2)), np.zeros(6))
    with pytest.raises(GenlabError, match="clip 'a': 5 frames of codes, 5 of latents, 6 of units"):
        pack_clip(clip)


def test_a_half_written_store_is_no_store(copied):
    (copied / "dataset.json").unlink()
    assert "missing or unfinished" in refusal(copied)
    assert "missing or unfinished" in refusal(copied / "nowhere")


def test_a_store_of_another_codec_is_refused(store):
    message = refusal(store.directory, "somethingx")
    assert f"made by codec {store.info.codec_fingerprint}" in message and "somethingx" in message
    assert TokenStore(store.directory, store.info.codec_fingerprint).info == store.info


def test_any_flipped_bit_is_refused_or_harmless(store, copied):
    """Every file that is read back, at 12 places each: what is read is what was written, or a line
    names the file.
    """
    rng = np.random.default_rng(0)
    whole = [store.clip(number) for number in range(12)]
    refused = 0
    read_back = ["code_vectors.npy", "dataset.json", "digests.json", "frames.npy"]
    read_back.append("part-00000.array_record")
    parts = sorted(path.name for path in copied.glob("part-*.array_record"))
    covered = sorted(json.loads((copied / "digests.json").read_text())["files"])
    assert covered == ["code_vectors.npy", "dataset.json", "frames.npy", *parts]
    for name in read_back:
        content = (copied / name).read_bytes()
        for place in rng.integers(len(content), size=12):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            (copied / name).write_bytes(changed)
            try:
                opened = TokenStore(copied)
                np.testing.assert_array_equal(opened.code_vectors, store.code_vectors)
                for number, clip in enumerate(whole):
                    found = opened.clip(number)
                    assert found[:4] == clip[:4]
                    np.testing.assert_array_equal(found.codes, clip.codes)
            except GenlabError as error:
                assert f"{name}: damaged: " in str(error) and "\n" not in str(error)
                assert f"; delete {copied} and make it again with `genlab data CONFIG`" in str(
                    error
                )
                refused += 1
            else:
                assert name.endswith(".array_record")  # the files of ArrayRecord are padded
        (copied / name).write_bytes(content)
    assert refused >= 48


def test_damaged_stores_without_digests_are_refused(copied):
    """A store of a version that wrote no digests is opened unchecked, and what cannot be read is
    refused.
    """
    (copied / "digests.json").unlink()
    assert TokenStore(copied).clip(0).id
    info = json.loads((copied / "dataset.json").read_text())
    for change, told in (
        ({"schema_version": SCHEMA + 1, "new": 1}, f"schema {SCHEMA + 1}, expected {SCHEMA}"),
        ({"num_units": 0}, "damaged: field num_units: expected greater than or equal to 1, got 0"),
        (
            {"latent_mean": [0.0]},
            "damaged: expected 8 values of latent_mean, one per channel, got 1",
        ),
        ({"longest_text": "x"}, 'damaged: field longest_text: expected a valid integer, got "x"'),
    ):
        (copied / "dataset.json").write_text(json.dumps({**info, **change}))
        assert told in refusal(copied)
    (copied / "dataset.json").write_text("{")
    assert "damaged: expected JSON, got expecting property name" in refusal(copied)
    (copied / "dataset.json").write_text(json.dumps(info))
    np.save(copied / "code_vectors.npy", np.zeros((1, 2, 3), np.float32))
    with pytest.raises(
        GenlabError, match=r"code_vectors\.npy: damaged: expected \[.*\] values, got \[1, 2, 3\]"
    ):
        _ = TokenStore(copied).code_vectors
    (copied / "code_vectors.npy").unlink()
    with pytest.raises(GenlabError, match=r"code_vectors\.npy is missing"):
        _ = TokenStore(copied).code_vectors
    part = next(copied.glob("*.array_record"))
    part.write_bytes(part.read_bytes()[:100])
    assert "expected 12" in refusal(copied)
    part.unlink()
    assert "0 records in 0 parts, expected 12" in refusal(copied)


def test_parts_that_changed_places_are_refused(store, copied):
    """Both are whole, of one size and of as many records: only their content tells them apart."""
    whole = next(copied.glob("*.array_record"))
    first, second = (copied / f"part-0000{number}.array_record" for number in range(2))
    clips = [store.read_record(number) for number in range(12)]
    whole.unlink()
    write_part(first, clips[:6])
    write_part(second, clips[6:])
    finish_store(copied, store.info)
    assert first.stat().st_size == second.stat().st_size
    assert [TokenStore(copied).clip(number).id for number in (0, 6)] == [clips[0].id, clips[6].id]
    first.rename(copied / "kept")
    second.rename(first)
    (copied / "kept").rename(second)
    assert f"{first.name}: damaged: it does not begin and end as it was written" in refusal(copied)
    # A version that noted no edges compared sizes alone, and its stores are opened.
    table = json.loads((copied / "digests.json").read_text())
    write_digests(copied, table["files"])
    assert TokenStore(copied).clip(0).id == clips[6].id


def test_parts_with_records_of_one_length_are_told_apart(tmp_path):
    """Codes that cannot be compressed make lists of places that are the same in both parts."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"part-0000{number}.array_record" for number in range(2)]
    for number, path in enumerate(paths):
        names = [f"c{100 * number + index:03d}" for index in range(60)]
        codes = rng.integers(-(2**15), 2**15, (2, 60, 500, 8))[number]
        units, latents = np.zeros(500, np.int64), np.zeros((500, 0), np.float32)
        write_part(
            path,
            [TokenClip(a, "", "s", "p", each, latents, units) for a, each in zip(names, codes)],
        )
    contents = [path.read_bytes() for path in paths]
    assert contents[0][-EDGE_BYTES:] == contents[1][-EDGE_BYTES:]
    assert digest_edges(paths[0]) != digest_edges(paths[1])


def test_frames_are_known_without_reading_clips(store, copied, monkeypatch):
    true = [len(store.clip(number).units) for number in range(12)]
    assert store.frames(range(12)).tolist() == true
    assert store.frames([7, 2, 2]).tolist() == [true[7], true[2], true[2]]
    train = store.numbers("train", 3)
    assert store.frames(train).tolist() == [true[number] for number in train]
    # A store of an earlier version has no such file: its records say it.
    digests = json.loads((copied / "digests.json").read_text())["files"]
    (copied / "frames.npy").unlink()
    old = {name: digest for name, digest in digests.items() if name != "frames.npy"}
    write_digests(copied, old)
    assert TokenStore(copied).frames(range(12)).tolist() == true
    monkeypatch.setattr(TokenStore, "heading", None)
    assert store.frames(range(12)).tolist() == true
    np.save(copied / "frames.npy", np.ones(11, np.int32))
    with pytest.raises(GenlabError, match=r"frames.npy: damaged: expected 12 whole numbers, got"):
        TokenStore(copied).frames([0])


def test_a_heading_says_what_its_clip_says(store):
    for number in range(12):
        clip, heading = store.clip(number), store.heading(number)
        assert heading == (clip.id, clip.text, clip.speaker, len(clip.units))


def test_splits_are_ranges_of_records(store):
    info = store.info
    assert {name: split.clips for name, split in info.splits.items()} == {
        "test": 2,
        "train": 8,
        "valid": 2,
    }
    ids = {
        name: {store.clip(i).id for i in range(split.first, split.first + split.clips)}
        for name, split in info.splits.items()
    }
    assert ids["test"] == {"clip000", "clip006"} and ids["valid"] == {"clip001", "clip007"}
    assert len(set.union(*ids.values())) == 12
    with pytest.raises(
        GenlabError, match=r"split 'dev': not in token store .* it has \['test', 'train', 'valid'\]"
    ):
        store.split("dev")


def test_statistics_are_those_of_the_training_split(store):
    split = store.split("train")
    latents = np.concatenate(
        [store.clip(i).latents for i in range(split.first, split.first + split.clips)]
    )
    np.testing.assert_allclose(store.latent_mean, latents.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(store.latent_std, latents.std(axis=0), rtol=1e-2)
    normalised = store.normalise(latents)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=2e-2)
    np.testing.assert_allclose(normalised.std(axis=0), 1, atol=2e-2)
    np.testing.assert_allclose(store.denormalise(normalised), latents, atol=1e-5)
    other = np.concatenate([store.clip(i).latents for i in range(12)])
    # the other splits would have moved them
    assert np.abs(other.mean(axis=0) - store.latent_mean).max() > 2e-3


def test_code_vectors_sum_to_normalised_quantised_latents(store):
    clip = store.clip(0)
    summed = sum(store.code_vectors[level][clip.codes[:, level]] for level in range(3))
    quantised = np.asarray(make_frozen().code_vectors)
    wanted = sum(quantised[level][clip.codes[:, level]] for level in range(3))
    np.testing.assert_allclose(store.denormalise(summed), wanted, atol=1e-4)
    # The mean is taken off the first level alone: what is finer is a difference and has none.
    np.testing.assert_allclose(
        store.code_vectors[1:] * store.latent_std, quantised[1:], atol=1e-5, rtol=1e-4
    )
    first = store.code_vectors[0] * store.latent_std + store.latent_mean
    np.testing.assert_allclose(first, quantised[0], atol=1e-5, rtol=1e-4)


def test_crops_of_all_views_are_of_the_same_frames(store):
    clip = max((store.clip(i) for i in range(12)), key=lambda clip: len(clip.units))
    tokens, cond = store.example(clip, 10, first_frame=7)
    np.testing.assert_array_equal(tokens.codes, clip.codes[7:17])
    np.testing.assert_allclose(store.denormalise(tokens.latents), clip.latents[7:17], atol=1e-5)
    np.testing.assert_array_equal(cond.content, clip.units[7:17])
    assert tokens.num_frames == 10 and store.info.speakers[cond.speaker] == clip.speaker


def test_short_clips_are_padded_with_zeros(store):
    clip = min((store.clip(i) for i in range(12)), key=lambda clip: len(clip.units))
    frames = len(clip.units)
    tokens, cond = store.example(clip, frames + 5)
    assert tokens.num_frames == frames and not cond.is_dropped
    for view in (tokens.codes, tokens.latents, cond.content):
        assert len(view) == frames + 5 and (view[frames:] == 0).all()
    assert (cond.content[:frames] > 0).all()
    assert len(cond.text) == store.info.longest_text and cond.text.max() <= 28


def test_an_element_is_a_pure_function_of_seed_and_position(store):
    def elements(seed, order):
        dataset = TokenStore(store.directory).dataset("train", num_frames=8, seed=seed)
        return {i: dataset[i] for i in order}

    forwards, backwards = elements(3, range(20)), elements(3, reversed(range(20)))
    for i in range(20):
        for a, b in zip(
            (*forwards[i][0][0], *forwards[i][0][1]), (*backwards[i][0][0], *backwards[i][0][1])
        ):
            np.testing.assert_array_equal(a, b)
    order = [int(forwards[i][1]) for i in range(16)]
    # every pass holds each training clip once
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(2, 10))
    assert order[:8] != order[8:]
    assert [int(e[1]) for e in elements(4, range(8)).values()] != order[:8]


def test_a_crop_is_drawn_anew_in_every_pass(store):
    dataset = store.dataset("train", num_frames=4, seed=0)
    firsts = {}
    for i in range(64):
        (tokens, _), record = dataset[i]
        firsts.setdefault(int(record), set()).add(tokens.codes.tobytes())
    assert max(len(crops) for crops in firsts.values()) > 2


def test_every_crop_of_a_clip_is_drawn(store):
    """A clip of 5 frames more than an example begins at 0 to 5, each as often: 3 to 30 of 96."""
    longest = max(store.numbers("train"), key=lambda number: len(store.clip(number).units))
    clip = store.clip(longest)
    num_frames = len(clip.units) - 5
    dataset = store.dataset("train", num_frames=num_frames, seed=0)
    drawn = [0] * 6
    for i in range(8 * 96):
        (tokens, _), record = dataset[i]
        if record != longest:
            continue
        [first] = [
            at for at in range(6) if (tokens.codes == clip.codes[at : at + num_frames]).all()
        ]
        drawn[first] += 1
    assert sum(drawn) == 96 and min(drawn) >= 3 and max(drawn) <= 30
    other = store.dataset("train", num_frames=num_frames, seed=1)
    assert [int(other[i][1]) for i in range(8)] != [int(dataset[i][1]) for i in range(8)]


def test_less_data_is_always_within_more(store):
    parts = [set(store.numbers("train", clips)) for clips in range(1, 9)]
    assert [len(part) for part in parts] == list(range(1, 9))
    assert all(less < more for less, more in itertools.pairwise(parts))


def test_batches_are_the_same_by_iteration_and_by_position(store):
    source = BatchSource(store.dataset("train", num_frames=8, seed=0), 4)
    iterator = source.iterate(start_step=2)
    for step in (2, 3, 4):
        assert batch_digest(next(iterator)) == batch_digest(source.batch_at(step))
    tokens, cond = source.batch_at(0).args
    assert (
        tokens.codes.shape == (4, 8, 3)
        and tokens.latents.shape == (4, 8, 8)
        and tokens.num_frames.shape == (4,)
    )
    assert (
        cond.speaker.shape == (4,)
        and cond.content.shape == (4, 8)
        and cond.is_dropped.shape == (4,)
    )


def test_a_part_of_the_training_clips_is_fixed_and_nested(store):
    few, more = store.numbers("train", 3), store.numbers("train", 5)
    assert set(few) < set(more) < set(store.numbers("train")) == set(range(2, 10))
    dataset = store.dataset("train", num_frames=8, seed=7, clips=3)
    assert {int(dataset[i][1]) for i in range(12)} == set(few)
    with pytest.raises(GenlabError, match=r"train_clips=9: split 'train' has only 8"):
        store.numbers("train", 9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"speaker": "nobody"}, "speaker 'nobody' is none of the store"),
        ({"text": "a" * 10_000}, "its text is longer than"),
        ({"text": 5}, "a name is no text"),
        ({"codes": 2**15 - 1}, "32767, expected 0 to"),
        ({"codes": -5}, "codes or units from -5"),
        ({"units": 2**15 - 1}, "32767, expected 0 to"),
        ({"latents": np.nan}, "not finite"),
        ({"latents": np.inf}, "not finite"),
        ({"channels": 1}, "codebooks and channels, got"),
        ({"frames": 0}, "it has no frames"),
        ({"other": True}, "another number of sides"),
    ],
)
def test_a_record_with_the_right_checksum_and_wrong_content_is_refused(copied, changes, told):
    digests = copied / "digests.json"
    digests.unlink()
    clips = [TokenStore(copied).clip(index) for index in range(12)]
    clip, [(name, value)] = clips[0], changes.items()
    if name in ("codes", "latents", "units"):
        changed = getattr(clip, name).copy()
        changed[0] = value
        clip = clip._replace(**{name: changed})
    elif name == "channels":
        clip = clip._replace(latents=clip.latents[:, :1])
    elif name == "frames":
        clip = clip._replace(codes=clip.codes[:0], latents=clip.latents[:0], units=clip.units[:0])
    else:
        clip = clip._replace(**{name: clip.codes if name == "other" else value})
    [part] = part_paths(copied)
    write_part(part, [clip, *clips[1:]])
    info = json.loads((copied / "dataset.json").read_text())
    finish_store(copied, StoreInfo.from_dict(info))  # its digests are of what is there now
    made = TokenStore(copied)
    with pytest.raises(GenlabError, match="record 0 cannot be read") as error:
        made.clip(0)
    assert told in str(error.value) and made.clip(1).id == clips[1].id
