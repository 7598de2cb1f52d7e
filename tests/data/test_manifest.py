import dataclasses

import pytest

from genlab.config import GenlabError
from genlab.data.manifest import Clip, Manifest, assign_splits, text_key


def make_clips(num_texts=60, speakers=("a", "b", "c")):
    return [
        Clip(
            f"{number}-{speaker}",
            f"{number}-{speaker}.flac",
            f"Text number {number}!",
            speaker,
            "",
            16_000,
            "CC0",
        )
        for number in range(num_texts)
        for speaker in speakers
    ]


def place(clips, **changes):
    settings = {
        "seed": 0,
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
        "pair_fraction": 0.1,
    } | changes
    return assign_splits(clips, **settings)


def texts_of(clips, split):
    return {clip.text for clip in clips if clip.split == split}


def test_texts_are_disjoint_and_pairs_are_held_out():
    clips = place(make_clips())
    assert texts_of(clips, "valid") and texts_of(clips, "test")
    assert not texts_of(clips, "train") & (texts_of(clips, "valid") | texts_of(clips, "test"))
    assert not texts_of(clips, "valid") & texts_of(clips, "test")
    pairs = {(clip.text, clip.speaker) for clip in clips if clip.split == "test_pair"}
    train = {(clip.text, clip.speaker) for clip in clips if clip.split == "train"}
    assert pairs and not pairs & train
    assert {text for text, _ in pairs} <= texts_of(clips, "train")
    assert {speaker for _, speaker in pairs} <= {speaker for _, speaker in train}


def test_split_depends_on_the_text_and_not_on_order_or_spelling():
    clips = make_clips()
    placed = {clip.id: clip.split for clip in place(clips)}
    assert {clip.id: clip.split for clip in place(clips[::-1])} == placed
    shouted = [
        dataclasses.replace(clip, text=clip.text.upper().replace("!", " ")) for clip in clips
    ]
    assert {clip.id: clip.split for clip in place(shouted)} == placed
    more = {clip.id: clip.split for clip in place(make_clips(num_texts=90))}
    assert all(more[clip_id] == split for clip_id, split in placed.items())
    assert {clip.id: clip.split for clip in place(clips, seed=1)} != placed


def test_other_scripts_are_told_apart():
    clips = [
        Clip(str(i), f"{i}.flac", f"слово {chr(0x430 + i)}", "a", "", 16_000, "CC0")
        for i in range(30)
    ]
    assert {clip.split for clip in place(clips)} >= {"train", "valid", "test"}


def test_held_out_speakers_go_nowhere_else_even_if_a_split_was_given():
    clips = [
        dataclasses.replace(clip, split="train") if clip.id == "1-b" else clip
        for clip in make_clips()
    ]
    placed = place(clips, held_out_speakers=("b",))
    assert {clip.split for clip in placed if clip.speaker == "b"} == {"test_speaker"}
    assert "b" not in {clip.speaker for clip in placed if clip.split != "test_speaker"}
    with pytest.raises(GenlabError, match="held_out_speakers: no speaker 'nobody'"):
        place(make_clips(), held_out_speakers=("nobody",))


def test_a_tiny_corpus_still_has_every_split():
    assert {clip.split for clip in place(make_clips(num_texts=4), pair_fraction=0.0)} == {
        "train",
        "valid",
        "test",
    }


def test_held_out_pairs_and_texts_depend_on_the_seed():
    found = [place(make_clips(), seed=seed) for seed in (0, 1)]
    pairs = [{clip.id for clip in clips if clip.split == "test_pair"} for clips in found]
    assert all(pairs) and pairs[0] != pairs[1]
    # Also where both seeds have the text in train: its pairs are drawn anew.
    both = set.intersection(*(texts_of(clips, "train") for clips in found))
    kept = [
        {clip.id for clip in clips if clip.split == "test_pair" and clip.text in both}
        for clips in found
    ]
    assert kept[0] != kept[1]
    assert texts_of(found[0], "test") != texts_of(found[1], "test")
    # A pair is of a text and a speaker: not all of a speaker's clips go.
    speakers = {clip.split: set() for clip in found[0]}
    for clip in found[0]:
        speakers[clip.split].add(clip.speaker)
    assert speakers["test_pair"] <= speakers["train"]


def test_save_load_and_hash(tmp_path):
    manifest = Manifest(place(make_clips()), tmp_path)
    manifest.save(tmp_path)
    again = Manifest.load(tmp_path)
    assert again.clips == manifest.clips and again.hash() == manifest.hash()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    moved = [
        dataclasses.replace(clip, path=f"elsewhere/{clip.path}", num_samples=16_200)
        for clip in manifest.clips
    ]
    assert Manifest(moved, tmp_path / "x").hash() == manifest.hash()
    for change in (
        {"text": "other"},
        {"speaker": "z"},
        {"split": "z"},
        {"licence": "z"},
        {"audio_digest": "z"},
    ):
        changed = [dataclasses.replace(manifest.clips[0], **change), *manifest.clips[1:]]
        assert Manifest(changed, tmp_path).hash() != manifest.hash(), change


def test_damage_is_named(tmp_path):
    with pytest.raises(GenlabError, match="no corpus here"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"id": "a"')
    with pytest.raises(GenlabError, match="damaged manifest"):
        Manifest.load(tmp_path)
    with pytest.raises(GenlabError, match="split 'nope': no such split"):
        Manifest(place(make_clips()), tmp_path).split("nope")
    with pytest.raises(GenlabError, match="unique, repeated: 0-a"):
        Manifest([make_clips()[0]] * 2, tmp_path)


def test_the_unit_of_statistics_is_the_text_and_without_text_the_clip():
    def unit(name, text):
        return text_key(Clip(name, f"{name}.flac", text, "s", "test", 16_000, "CC0"))

    assert unit("a", "Hello, you!") == unit("b", "hello you") == "hello you"
    assert [unit("c", ""), unit("d", "")] == ["clip c", "clip d"]
    # Other scripts have no symbols in the alphabet, and differ all the same.
    assert unit("e", "你好世界") != unit("f", "明天见")
