import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.evaluate.content import GrammarRecogniser, character_errors, word_errors

DIGITS = "#JSGF V1.0; grammar digits; public <digits> = <digit>+; <digit> = one | two | three;"


def test_word_errors_count_substitutions_deletions_and_insertions():
    counts = word_errors(
        ["one two", "two", "", "one two three"], ["one three", "one two", "four five", "one"]
    )
    assert counts.errors.tolist() == [1, 1, 2, 2]
    assert counts.reference_units.tolist() == [2, 2, 2, 1]
    assert counts.rate == pytest.approx(6 / 7)


def test_errors_ignore_case_and_punctuation_and_allow_empty_references():
    counts = word_errors(["hello there", "oh no"], ["Hello, there!", ""])
    assert counts.errors.tolist() == [0, 2]
    assert counts.reference_units.tolist() == [2, 0]


def test_character_errors():
    counts = character_errors(["lamp", "a"], ["lump", "ball"])
    assert counts.errors.tolist() == [1, 3]
    assert counts.reference_units.tolist() == [4, 4]


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one per reference"):
        word_errors(["a"], ["a", "b"])


def test_recogniser_ranks_clean_over_noisy_over_shuffled(speech, grammar, degrade):
    clips = speech[::2]
    texts = [prompt.text for prompt in clips]

    def rate(spoil):
        return word_errors(grammar.transcribe([spoil(prompt.wave) for prompt in clips]), texts).rate

    clean, noisy, shuffled = (
        rate(lambda wave: wave),
        rate(degrade["noise_0db"]),
        rate(degrade["shuffle"]),
    )
    assert clean < 0.1
    assert clean + 0.2 < noisy < shuffled + 0.1
    assert shuffled > 0.8


def test_a_transcript_does_not_depend_on_the_clips_before_it(speech, grammar, degrade):
    waves = [prompt.wave for prompt in speech[:6]]
    forward = grammar.transcribe(waves)
    grammar.transcribe([degrade["noise_0db"](wave * 0.01) for wave in waves])
    assert grammar.transcribe(waves[::-1])[::-1] == forward


@pytest.mark.parametrize(
    "wave", [np.zeros(16000, np.float32), np.zeros(0, np.float32), np.ones(10, np.float32)]
)
def test_silence_and_crumbs_say_nothing(wave, grammar):
    assert grammar.transcribe([wave]) == [""]


def test_unknown_words_are_named():
    with pytest.raises(GenlabError, match=r"vocabulary: no pronunciation for 'blorptang'"):
        GrammarRecogniser(DIGITS, ["one", "blorptang"])


def test_a_broken_grammar_is_refused():
    with pytest.raises(GenlabError, match="grammar: pocketsphinx refused it"):
        GrammarRecogniser("public <x> = ;", ["one"])
