import json
import threading
from pathlib import Path

import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest

from genlab.codecs import cache
from genlab.codecs.cache import encode_corpus, store_directory
from genlab.config import GenlabError
from genlab.data.manifest import Manifest
from genlab.data.part_files import part_paths
from genlab.data.record import pack_clip


@pytest.fixture(scope="module")
def frozen():
    return make_frozen()


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "corpus", 12)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(cache, "PART_CLIPS", 4)
    monkeypatch.setattr(cache, "BATCH_CLIPS", 3)


class Killed(Exception):
    pass


class MortalUnits(LoudnessUnits):
    """Fails when asked for more than `calls` batches."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def encode_units(self, waves):
        self.calls -= 1
        if self.calls < 0:
            raise Killed
        return super().encode_units(waves)


def test_the_store_holds_what_codec_and_units_say(manifest, frozen, tmp_path):
    units = LoudnessUnits()
    progress = []
    store = encode_corpus(manifest, frozen, units, tmp_path, lambda *args: progress.append(args))
    assert progress == [("encode", 4, 12), ("encode", 8, 12), ("encode", 12, 12)]
    by_id = {clip.id: clip for clip in manifest.clips}
    for number in range(12):
        clip = store.clip(number)
        source = by_id[clip.id]
        wave = manifest.audio(source) / np.float32(32768)
        [(codes, latents)] = frozen.encode([wave])
        assert (clip.text, clip.speaker, clip.path) == (source.text, source.speaker, source.path)
        np.testing.assert_array_equal(clip.codes, codes)
        np.testing.assert_allclose(clip.latents, latents, atol=1e-3, rtol=1e-3)  # float16
        np.testing.assert_array_equal(clip.units, units.encode_units([wave])[0])
    info = store.info
    assert (info.codec_fingerprint, info.units_fingerprint) == (
        frozen.fingerprint,
        units.fingerprint,
    )
    assert (info.num_units, info.speakers, info.licences) == (6, ("ann", "bob"), ("CC0-1.0",))
    assert info.spec == frozen.spec and info.manifest_hash == manifest.hash()
    assert sum(split.seconds for split in info.splits.values()) == pytest.approx(
        manifest.duration_s
    )
    assert info.longest_text == max(len(clip.text) for clip in manifest.clips)


def test_an_interrupted_encoding_goes_on_with_the_missing_part(manifest, frozen, tmp_path):
    with pytest.raises(Killed):
        # 2 batches a part: dies in part 1
        encode_corpus(manifest, frozen, MortalUnits(calls=3), tmp_path / "cut")
    directory = store_directory(manifest, frozen, LoudnessUnits(), tmp_path / "cut")
    assert not (directory / "dataset.json").exists()
    assert [path.name for path in sorted(directory.glob("*.array_record"))] == [
        "part-00000.array_record"
    ]
    units = LoudnessUnits()
    resumed = encode_corpus(manifest, frozen, units, tmp_path / "cut")
    assert units.num_waves == 2 * 2 * 3  # two parts of two batches, the short one filled up
    whole = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "whole")
    assert resumed.info == whole.info
    for number in range(12):
        for ours, theirs in zip(resumed.clip(number), whole.clip(number)):
            np.testing.assert_array_equal(ours, theirs)


def test_pieces_become_parts_of_a_size(manifest, frozen, tmp_path, monkeypatch):
    """12 clips in pieces of 2, which are joined as soon as they have 2 kB together."""
    monkeypatch.setattr(cache, "PART_CLIPS", 2)
    one = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "one")
    [part] = part_paths(one.directory)
    assert part.name == "part-00000-00005.array_record"
    monkeypatch.setattr(cache, "PART_BYTES", 0)
    pieces = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "pieces")
    names = [path.name for path in part_paths(pieces.directory)]
    assert names == [f"part-{number:05d}.array_record" for number in range(6)]
    size = max(path.stat().st_size for path in part_paths(pieces.directory))
    monkeypatch.setattr(cache, "PART_BYTES", size + 1)  # no piece is large enough alone
    joined = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "joined")
    assert len(part_paths(joined.directory)) in (2, 3)
    records = [list(map(pack_clip, map(store.clip, range(12)))) for store in (one, pieces, joined)]
    assert records[0] == records[1] == records[2]
    assert pieces.info == one.info  # sums of pieces are added in the same order
    np.testing.assert_allclose(joined.latent_mean, one.latent_mean, rtol=1e-6)
    assert sorted(path.suffix for path in joined.directory.glob("part-*")) == sorted(
        [".array_record", ".json"] * len(part_paths(joined.directory))
    )


@pytest.mark.parametrize("dies_in", ["join_parts", "_write_facts", "unlink"])
def test_an_encoding_that_dies_while_it_joins_loses_nothing(
    manifest, frozen, tmp_path, monkeypatch, dies_in
):
    whole = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        if dies_in == "unlink":  # the joined part is there, and of its pieces all but one
            unlinked, real = [], Path.unlink

            def unlink(path, missing_ok=False):
                if path.name.startswith("part-"):
                    unlinked.append(path)
                    if len(unlinked) > 2:
                        raise Killed
                real(path, missing_ok)

            patch.setattr(Path, "unlink", unlink)
        else:
            real_one = getattr(cache, dies_in)

            def die(path, *rest):
                if dies_in == "join_parts" or "-00000-00002" in path.name:
                    raise Killed
                return real_one(path, *rest)

            patch.setattr(cache, dies_in, die)
        with pytest.raises(Killed):
            encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "cut")
    units = LoudnessUnits()
    resumed = encode_corpus(manifest, frozen, units, tmp_path / "cut")
    assert units.num_waves == 0 and resumed.info == whole.info

    def content(store):
        return {path.name: path.read_bytes() for path in store.directory.glob("[!.]*")}

    assert content(resumed) == content(whole)


def test_more_parts_than_five_digits_keep_their_order(tmp_path):
    names = ["part-100000.array_record", "part-99999.array_record", "part-00007-00009.array_record"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in part_paths(tmp_path)] == names[::-1]


def test_sums_without_their_part_are_not_believed(manifest, frozen, tmp_path):
    with pytest.raises(Killed):
        encode_corpus(manifest, frozen, MortalUnits(calls=3), tmp_path)
    directory = store_directory(manifest, frozen, LoudnessUnits(), tmp_path)
    # The kill came after the sums of part 1 were written and before the part itself.
    (directory / "part-00001.json").write_text(
        json.dumps({"frames": 9e9, "sum": [9e9] * 8, "squares": [9e9] * 8})
    )
    store = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path)
    assert np.abs(store.latent_mean).max() < 100


@pytest.mark.parametrize("name", ["part-00000.json", "part-00000.array_record"])
def test_a_damaged_part_of_an_interrupted_encoding_is_encoded_again(
    manifest, frozen, tmp_path, name, capsys
):
    with pytest.raises(Killed):
        encode_corpus(manifest, frozen, MortalUnits(calls=3), tmp_path)
    directory = store_directory(manifest, frozen, LoudnessUnits(), tmp_path)
    content = bytearray((directory / name).read_bytes())
    content[content.index(b"0.") if name.endswith(".json") else 70] ^= 1
    (directory / name).write_bytes(content)
    store = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path)
    assert "part-00000." in capsys.readouterr().err
    whole = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path / "whole")
    assert store.info == whole.info
    np.testing.assert_array_equal(store.clip(0).codes, whole.clip(0).codes)


def test_a_finished_store_is_opened_not_encoded(manifest, frozen, tmp_path):
    encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path)
    units = LoudnessUnits()
    encode_corpus(manifest, frozen, units, tmp_path)
    assert units.num_waves == 0


def test_another_codec_units_or_corpus_is_another_store(manifest, frozen, tmp_path):
    units, other_units = LoudnessUnits(), LoudnessUnits()
    other_units.fingerprint = "other"
    other_corpus = Manifest(manifest.clips[:-1], manifest.root)
    paths = {
        store_directory(manifest, frozen, units, tmp_path),
        store_directory(manifest, make_frozen(1), units, tmp_path),
        store_directory(manifest, frozen, other_units, tmp_path),
        store_directory(other_corpus, frozen, units, tmp_path),
    }
    assert len(paths) == 4


def test_two_processes_that_want_one_store_take_turns(manifest, frozen, tmp_path):
    both = [LoudnessUnits(), LoudnessUnits()]
    threads = [
        threading.Thread(target=encode_corpus, args=(manifest, frozen, units, tmp_path))
        for units in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(units.num_waves for units in both) == [0, 3 * 2 * 3]


def test_a_corpus_without_training_clips_keeps_its_scale(manifest, frozen, tmp_path):
    held_out = Manifest([clip for clip in manifest.clips if clip.split == "test"], manifest.root)
    store = encode_corpus(held_out, frozen, LoudnessUnits(), tmp_path)
    assert (store.latent_mean == 0).all() and (store.latent_std == 1).all()


def test_an_empty_corpus_is_refused(frozen, tmp_path):
    with pytest.raises(GenlabError, match="no clips to encode"):
        encode_corpus(Manifest([], tmp_path), frozen, LoudnessUnits(), tmp_path)
