"""What a store of somebody's tokens is known by and says, on inputs that differ in one thing."""

import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from own_toys import make_clips, npy, write_arrays, write_index, write_spec, write_tars

from genlab.config import GenlabError
from genlab.data.own.row import Facts, parse_facts
from genlab.data.own.shards import add_member
from genlab.data.own.source import TokenFiles
from genlab.data.own.spec import OwnSpec
from genlab.data.own.vectors import SummedStore
from genlab.data.text import encode_text

CLIPS = make_clips(20)


def store_of(folder, clips, cache, writer=write_arrays, **more):
    return TokenFiles(writer(folder, clips, **more)).open(cache)


def test_no_two_corpora_pass_for_one(tmp_path):
    """What stands in one column, moved to the next, or cut elsewhere, is another corpus."""
    codes = CLIPS[0][1]
    hashes = [
        store_of(tmp_path / str(number), [(facts, codes)], tmp_path / "c").info.manifest_hash
        for number, facts in enumerate(
            (
                Facts("a", "bc", "d", "train"),
                Facts("ab", "c", "d", "train"),
                Facts("a", "b", "cd", "train"),
                Facts("a", "bcd", "", "train"),
                Facts("a", "bc", "d", "test"),
            )
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_what_tokens_json_says_makes_another_store(tmp_path):
    """Tars are the same files: their numbers of samples or their vectors alone have changed."""
    folder = write_tars(tmp_path / "tokens", CLIPS)
    cache, found = tmp_path / "cache", {}
    found["as it was"] = TokenFiles(folder).find(cache)
    write_spec(folder, hop_samples=960)
    found["twice the frames a second"] = TokenFiles(folder).find(cache)
    assert TokenFiles(folder).open(cache).info.spec.frame_hz == 25
    write_spec(folder, code_vectors="v.npy")
    for number in range(2):  # as many bytes, at the same time
        np.save(folder / "v.npy", np.full((3, 16, 2), number, np.float32))
        os.utime(folder / "v.npy", ns=(10**18, 10**18))
        found[f"vectors {number}"] = TokenFiles(folder).find(cache)
    assert len(set(found.values())) == len(found)


def test_the_longest_text_is_that_of_any_clip(tmp_path):
    texts = ["one", "the longest of them", "two"]
    clips = [
        (facts._replace(text=text, split="train"), codes)
        for text, (facts, codes) in zip(texts, CLIPS)
    ]
    info = store_of(tmp_path / "tokens", clips, tmp_path / "cache").info
    assert info.longest_text == len(encode_text(texts[1])) > len(encode_text("one"))


def test_a_row_that_changes_while_it_is_read_is_refused(tmp_path):
    files = TokenFiles(write_arrays(tmp_path / "tokens", CLIPS[:3]))
    content = files.content()
    rows = list(files.rows())
    content.take(0, rows[0])
    for changed in (rows[1].facts._replace(split="test"), rows[1].facts._replace(text="other")):
        with pytest.raises(GenlabError, match=r"index\.jsonl:2: it changed while it was read"):
            content.take(1, rows[1]._replace(facts=changed))
    with pytest.raises(GenlabError, match="it changed while it was read"):
        content.take(3, rows[2])


def test_splits_have_the_names_that_tables_use():
    found = {
        name: parse_facts({"id": "a", "split": name}, "row").split
        for name in ("validation", " Dev ", "eval", "TRAINING", "test", "extra_1", "")
    }
    assert list(found.values()) == ["valid", "valid", "test", "train", "test", "extra_1", ""]


@pytest.mark.parametrize(("frame_hz", "is_right"), [(12.5, True), (12.51, True), (12.6, False)])
def test_a_rate_that_is_told_is_checked_to_a_thousandth(frame_hz, is_right):
    fields = {"sample_rate_hz": 24_000, "hop_samples": 1920, "codebooks": 1, "entries": 2}
    if is_right:
        assert OwnSpec(**fields, frame_hz=frame_hz).frame_hz == frame_hz
    else:
        with pytest.raises(ValueError, match=r"hop_samples = 12\.5"):
            OwnSpec(**fields, frame_hz=frame_hz)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    folder = write_spec(tmp_path / "tokens")
    with zipfile.ZipFile(folder / "codes.npz", "w") as archive:
        archive.writestr("a.npy", npy(CLIPS[0][1]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy(CLIPS[1][1]))
    write_index(folder, [{"id": "a", "file": "codes.npz"}])
    with pytest.raises(GenlabError, match=r"codes\.npz: two arrays of one name"):
        TokenFiles(folder).open(tmp_path / "cache")
    tars = write_spec(tmp_path / "tars")
    with tarfile.open(tars / "s.tar", "w") as archive:
        for _, codes in CLIPS[:2]:
            add_member(archive, "a.npy", npy(codes))
    with pytest.raises(GenlabError, match=r"s\.tar: 'a'\.npy occurs twice"):
        TokenFiles(tars).open(tmp_path / "cache")


def test_a_shard_that_was_cut_between_two_clips_is_refused(tmp_path):
    """Everything that is left of it reads well."""
    folder = write_tars(tmp_path / "tokens", CLIPS[:3], per_shard=3)
    path = folder / "shard-0000.tar"
    with tarfile.open(path) as archive:
        last = archive.getmember(f"{CLIPS[2][0].id}.json").offset
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(GenlabError, match=r"shard-0000\.tar: damaged: it has no end"):
        TokenFiles(folder).open(tmp_path / "cache")


def test_latents_of_codes_are_their_sums_in_units_of_training(tmp_path):
    """Mean 0 and deviation 1 over training clips, apart from a channel that carries nothing."""
    vectors = np.random.default_rng(0).normal(3.0, 2.0, (3, 16, 4)).astype(np.float32)
    vectors[:, :, 3] = 0.5
    store = store_of(tmp_path / "tokens", CLIPS, tmp_path / "cache")
    summed = SummedStore(store.directory, vectors, "codec00000")
    place = summed.split("train")
    clips = [summed.clip(number) for number in range(place.first, place.first + place.clips)]
    raw = np.concatenate([vectors[np.arange(3), clip.codes].sum(axis=1) for clip in clips])
    np.testing.assert_allclose(np.concatenate([clip.latents for clip in clips]), raw, rtol=1e-5)
    np.testing.assert_allclose(summed.latent_mean, raw.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(summed.latent_std[:3], raw.std(axis=0)[:3], rtol=1e-4)
    assert summed.latent_std[3] == 1 and summed.info.codec_fingerprint == "codec00000"
    codes = clips[0].codes
    np.testing.assert_allclose(
        summed.code_vectors[np.arange(3), codes].sum(axis=1),
        (clips[0].latents - summed.latent_mean) / summed.latent_std,
        atol=1e-4,
    )
    assert json.loads((store.directory / "dataset.json").read_text())["latent_mean"] == []
