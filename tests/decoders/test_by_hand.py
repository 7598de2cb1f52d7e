"""`genlab sample RUN --label ... --text ... --curve ...`: conditions that are set by hand."""

import numpy as np
import pytest
from decoder_toys import toy_batch
from told_toys import told_batch, told_by

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.parts import Numbers
from genlab.decoders.told.by_hand import ByHand

SPEAKERS = ("anna", "ben", "carla")
OF_TEXT = ConditionConfig(content="text", route="cross")


def set_by(options, condition, cond, num_frames=(12, 7, 9), seconds=None):
    """Return the conditions that options set, and the frames."""
    given = ByHand.read(options, seconds)
    return given.tell(condition, SPEAKERS, 50.0, cond, np.array(num_frames, np.int32))


def test_speaker_and_text_are_set_for_every_prompt():
    _, cond = toy_batch()
    one, frames = set_by({"label": ["speaker=ben"]}, OF_TEXT, cond)
    assert one.speaker.tolist() == [1, 1, 1] and frames.tolist() == [12, 7, 9]
    assert one.text is cond.text
    both, _ = set_by({"label": ["speaker=anna:0.7,carla:0.3"], "text": ["Hi = you"]}, OF_TEXT, cond)
    np.testing.assert_allclose(both.speaker, [[0.7, 0, 0.3]] * 3, atol=1e-6)
    # Letters are numbered after the blank, as texts of the corpus are: h, i, blank, blank, y ...
    assert both.text[0, :3].tolist() == [9, 10, 1] and (both.text == both.text[0]).all()


def test_parts_are_set_in_their_own_units(tmp_path):
    _, cond = told_batch("cross")
    curve = np.stack([np.linspace(0, 1, 24), np.ones(24)], axis=1)
    np.savetxt(tmp_path / "f0.csv", curve, delimiter=",")
    np.save(tmp_path / "states.npy", np.ones((2, 3)))
    np.save(tmp_path / "codes.npy", np.array([[1, 2], [3, 4]]))
    options = {
        "label": ["style=oboe", "band=flute:0.5,piano:0.5"],
        "text": ["words=日本", "sounds=k ah"],
        "curve": [f"pitch={tmp_path / 'f0.csv'}"],
        "vector": ["tempo=1.5", "clap=1,2,3,4,5", f"states={tmp_path / 'states.npy'}"],
        "codes": [f"mixture={tmp_path / 'codes.npy'}"],
    }
    told = set_by(options, told_by("cross"), cond)[0].parts
    assert told["style"].tolist() == [1, 1, 1] and told["style"].dtype == np.int32
    assert told["band"].tolist() == [[0.5, 0, 0.5]] * 3
    assert told["words"][0].tolist() == [1, *(2 + byte for byte in "日本".encode())]
    assert told["sounds"][0].tolist() == [1, 4, 2, 0, 0]
    assert told["tempo"].tolist() == [[1.5]] * 3 and told["clap"][0].tolist() == [1, 2, 3, 4, 5]
    assert told["states"][0].tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    # Stretched over each clip, and nothing behind its end.
    assert told["pitch"].shape == (3, 12, 2) and told["pitch"][1, 7:].max() == 0
    np.testing.assert_allclose(told["pitch"][0, :, 0], (np.arange(12) * 2 + 0.5) / 23, atol=1e-5)
    assert told["mixture"][0, :, 0].tolist() == [1] * 6 + [3] * 6
    assert told["mixture"][1, :7, 1].tolist() == [2] * 3 + [4] * 4


def test_numbers_are_scaled_as_those_of_the_corpus():
    _, cond = toy_batch()
    tempo = Numbers(name="tempo", columns=("tempo", "swing"), mean=100.0, deviation=20.0)
    condition = ConditionConfig(content="none", speaker=False, parts=(tempo,))
    told, _ = set_by({"vector": ["tempo=120,90"]}, condition, cond)
    assert told.parts["tempo"].tolist() == [[1.0, -0.5]] * 3


def test_a_length_is_exact_to_the_sample():
    _, cond = toy_batch()
    told, frames = set_by({}, OF_TEXT, cond, seconds=0.305)
    assert frames.tolist() == [16, 16, 16] and told.content.shape == (3, 16)
    waves = ByHand(seconds=0.305).cut([np.zeros(16 * 320)], 16_000)
    assert len(waves[0]) == 4880
    told, frames = set_by({}, OF_TEXT, cond, seconds=0.1)
    assert frames.tolist() == [5, 5, 5] and told.content.shape == (3, 12)
    assert [len(wave) for wave in ByHand().cut([np.zeros(7)], 16_000)] == [7]


REFUSED = {
    r"--label 'speaker': expected NAME=VALUE": {"label": ["speaker"]},
    r"--label speaker='bne': 'bne': not a known name; did you mean 'ben'\?": {
        "label": ["speaker=bne"]
    },
    r"--label style='oboe': the decoder has no condition 'style'; expected --label speaker=": {
        "label": ["style=oboe"]
    },
    r"--label speakr='ben': the decoder has no condition 'speakr'; did you mean 'speaker'\?": {
        "label": ["speakr=ben"]
    },
    r"--curve speaker='f.npy': 'speaker' is set by --label speaker=...": {
        "curve": ["speaker=f.npy"]
    },
    r"--label speaker='ben': given twice": {"label": ["speaker=ben", "speaker=ben"]},
    r"--text '日本': nothing in it is in the alphabet .* a-z": {"text": ["日本"]},
    r"--text 'ok 日本': '日本' is not in the alphabet .*transliterate": {"text": ["ok 日本"]},
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_set_is_told_in_one_line(told):
    _, cond = toy_batch()
    with pytest.raises(GenlabError, match=told) as error:
        set_by(REFUSED[told], OF_TEXT, cond)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"text": ["hello"]}, r"--text 'hello': 2 conditions are texts; expected --text NAME="),
        ({"text": ["sounds=k oh"]}, r"--text sounds='k oh': sounds.*'oh' is not in symbols .*ah"),
        ({"curve": ["pitch=none.npy"]}, r"--curve pitch='none.npy': 'none.npy': no such file"),
        ({"vector": ["clap=1,2"]}, r"shape \(2,\), expected a vector of channels=5"),
        ({"vector": ["tempo=1,2"]}, r"a value of shape \(2,\), expected \(1,\)"),
    ],
)
def test_values_of_another_shape_are_told(options, told):
    _, cond = told_batch("cross")
    # The column of phonemes is named in the message.
    with pytest.raises(GenlabError, match=told.replace("sounds.*", ".*")):
        set_by(options, told_by("cross"), cond)


def test_a_length_is_refused_where_frames_are_told():
    _, cond = toy_batch()
    with pytest.raises(GenlabError, match="--seconds 1: the decoder is told a unit for every fr"):
        set_by({}, ConditionConfig(), cond, seconds=1.0)
    _, cond = told_batch("cross")
    with pytest.raises(GenlabError, match=r"'pitch' says something .*--curve pitch=FILE"):
        set_by({}, told_by("cross"), cond, seconds=1.0)
    for seconds in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(GenlabError, match="expected more than 0"):
            set_by({}, OF_TEXT, cond, seconds=seconds)
