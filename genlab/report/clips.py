"""The listening part of the report: per prompt, a row of players with mel pictures.

In: `PromptRow`s. Out: `Markup` with the audio as base64 WAV: lossless, so the ear gets exactly what
the scores were computed on. Opus would be eight times smaller, but one codec must not be judged
through another; FLAC would save a third, but Chromium 156 fails to seek in some short FLAC clips.
Without JavaScript the browser's own players appear.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from genlab.data.audio import wav_bytes
from genlab.report.answer import model_arms
from genlab.report.inputs import Scored
from genlab.report.plot import marker
from genlab.report.tables import join
from genlab.report.text import arm_title, format_value, score_title
from genlab.watch.mel import mel_png


@dataclass(frozen=True)
class PromptRow:
    """One prompt and what every row of the table made of it.

    Attributes:
        prompt: its name, the same as in TensorBoard, for example "prompt03".
        text: what should be heard.
        speaker: whose voice, or the clip's label in a domain without speakers.
        seed: the sampling seed, the same in every arm.
        waves: mono or stereo audio by arm name of results.json, in the order to show: real audio,
            floors, arms.
        sample_rate_hz: of every wave.
        notes: a short remark by arm name, for example "128 calls, guidance 2".
        scores: by arm name, the scores of this very clip, the deciding one first.
        label: what `speaker` is called in the domain.
    """

    prompt: str
    text: str
    speaker: str
    seed: int | None
    waves: Mapping[str, Float[np.ndarray, "s *c"]]
    sample_rate_hz: int = 16_000
    notes: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    label: str = "speaker"


def prompt_articles(rows: Sequence[PromptRow], results: Scored) -> Markup:
    """Return one article per prompt."""
    titles = {arm["name"]: arm_title(arm) for arm in results["arms"]}
    markers = {arm["name"]: index for index, arm in enumerate(model_arms(results))}
    return join(_article(row, titles, markers) for row in rows)


def _article(row: PromptRow, titles: Mapping[str, str], markers: Mapping[str, int]) -> Markup:
    extent_s = (
        max([len(wave) / row.sample_rate_hz for wave in row.waves.values()], default=0.0) or 1.0
    )
    facts = [f"{row.label} {row.speaker}"] + ([] if row.seed is None else [f"seed {row.seed}"])
    clips = [
        _clip(row, name, titles.get(name, name.replace("_", " ")), markers.get(name), extent_s)
        for name in row.waves
    ]
    return Markup(
        '<article class="prompt" aria-label="{0}"><header><h3>{0}</h3><p class="said">{1}</p><p '
        'class="facts">{2}</p></header><div class="clips">{3}</div></article>'
    ).format(row.prompt, row.text, " · ".join(facts), join(clips))


def _clip(row: PromptRow, name: str, title: str, index: int | None, extent_s: float) -> Markup:
    wave = row.waves[name]
    seconds = len(wave) / row.sample_rate_hz
    shape = Markup("")
    if index is not None:
        shape = Markup(
            '<svg class="swatch arm{}" viewBox="0 0 16 16" aria-hidden="true">{}</svg>'
        ).format(index % 6, marker(index, 8, 8))
    # The player works without script: the button is hidden until script.js shows it, and until then
    # the browser's own controls are there.
    return Markup(
        '<figure class="clip" data-seconds="{seconds:.4f}" data-extent="{extent:.4f}"><figcaption>'
        '<button type="button" class="play" hidden aria-label="Play {title}, {prompt}"><svg '
        'viewBox="0 0 16 16" '
        'aria-hidden="true"><path class="go" d="M5 3l8 5-8 5z"/><path class="halt" d="M4 '
        '3h3v10H4zM9 3h3v10H9z"/></svg>'
        '</button>{shape}<span class="name">{title}<span class="note">{note}</span></span>'
        '<span class="time">{seconds:.2f} s</span></figcaption>'
        '<div class="mel"><img alt="Log-mel picture: {title}, {prompt}" width="320" height="160" '
        'decoding="async" '
        'src="data:image/png;base64,{png}"><span class="playhead" hidden></span></div>'
        '<audio controls preload="none" aria-label="{title}, {prompt}" '
        'src="data:audio/wav;base64,{wav}"></audio>'
        "{marks}</figure>"
    ).format(
        seconds=seconds,
        extent=extent_s,
        title=title,
        prompt=row.prompt,
        shape=shape,
        note=row.notes.get(name, ""),
        png=_base64(mel_png(wave, row.sample_rate_hz, extent_s=extent_s)),
        wav=_base64(wav_bytes(wave, row.sample_rate_hz)),
        marks=score_marks(row.scores.get(name, {})),
    )


def score_marks(scores: Mapping[str, float]) -> Markup:
    """Return the scores of one clip in one line, each with its name."""
    parts = [
        Markup("<span><b>{}</b> {}</span>").format(format_value(float(value)), score_title(name))
        for name, value in scores.items()
    ]
    return Markup('<p class="marks">{}</p>').format(join(parts)) if parts else Markup("")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
