"""Write the page of a listening test: one file that opens offline, and beside it the key that stays
at home.

In: a finished comparison. Out: `listen.html`, with two tests in one file, and `key.json`.

- Rating (MUSHRA-like, ITU-R BS.1534-3): one prompt per screen, the real clip as open reference, a
  slider from 0 to 100 for every row, among them the hidden reference and the low anchor. Not
  BS.1534 to the letter: generated speech is not a coded copy of the reference, so its melody and
  timing may differ; there is no mid anchor, since 7 kHz is nearly all that 16 kHz audio has, and
  the codec floors take its place; clips do not loop.
- Pairs: every two arms of a prompt, which is better or no difference.

The page holds opaque ids, clips in the order of those ids, and the digest of the key; the browser
shuffles screens and clips for each listener and writes the order into the answers. A
Content-Security-Policy forbids every request.
"""

import base64
import itertools
import json
import os
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from genlab.config import GenlabError
from genlab.data.audio import wav_bytes
from genlab.experiment import Comparison
from genlab.listen.key import (
    REFERENCE,
    Key,
    Screen,
    Test,
    digest_key,
    draw_id,
    draw_nonce,
    write_key,
)
from genlab.listen.ratings import prompts_needed
from genlab.listen.stimuli import PromptClips, read_clips
from genlab.report import outputs
from genlab.report.page import source_hash
from genlab.run.bucket import shown
from genlab.run.cache import only_writer
from genlab.run.ownership import check_has_no_way_out, refuse_to_replace
from genlab.run.stored import read_content, write_atomically
from genlab.watch.progress import Progress

HEARINGS = 2.5  # how often a listener plays a clip of a screen, for the estimate of the time
DECISION_S = 4.0
DATA = '<script type="application/json" id="data">{"key_sha256": "'  # as the page holds it
MAX_PAGE_BYTES = 4 << 30


class Sealed(NamedTuple):
    """What the page may carry: ids and audio."""

    screens: list[dict[str, Any]]
    clips: dict[str, bytes]


def write_test(
    config: Comparison,
    run_dir: Path,
    out: Path,
    tests: Sequence[Test],
    num_prompts: int | None,
    seed: int,
    progress: Progress,
) -> str:
    """Write `listen.html` and `key.json` into `out`, and return what to tell the person who asked.

    Raises:
        GenlabError: if the comparison is not finished, or `out` has a key already, or a page of
            somebody else.
    """
    results = outputs.read_results(run_dir)
    check_has_no_way_out(run_dir)
    if "mushra" not in tests and len(config.arms) < 2:
        raise GenlabError(
            "--test ab: this run has one arm, expected at least two to compare; use --test mushra"
        )
    _check_place(out)
    prompts, rate_hz = read_clips(config, run_dir, results, num_prompts, seed, progress)
    key, sealed = seal(
        prompts, rate_hz, tuple(config.arms), tests, results.get("comparison_key", "")
    )
    content = key.serialise()
    page = render_test(sealed, digest_key(content))
    with only_writer(out):
        _check_place(out)  # again: another process may have been here
        write_atomically(out / "listen.html", page)
        # last: while there is no key, the command can be run again
        write_key(out / "key.json", content)
    words = ["genlab", "listen", shown(run_dir), "--out", shown(out), "--merge"]
    merge = f"{shlex.join(words)} answers-*.json"
    return f"{describe_test(key, prompts, rate_hz, out)}\nmerge: {merge}"


def seal(
    prompts: Sequence[PromptClips],
    rate_hz: int,
    arms: tuple[str, ...],
    tests: Sequence[Test],
    comparison_key: str,
) -> tuple[Key, Sealed]:
    """Give every clip an opaque id, and return what stays at home and what the page gets.

    The screens and clips of the page are sorted by id, which is a random order.
    """
    screens: dict[str, Screen] = {}
    shown: list[dict[str, Any]] = []
    clips: dict[str, bytes] = {}
    for prompt in prompts:
        ids = {name: draw_id() for name in prompt.waves if "mushra" in tests or name in arms}
        # the open reference has an id of its own, else it would mark the hidden one
        open_id = draw_id()
        clips |= {clip_id: wav_bytes(prompt.waves[name], rate_hz) for name, clip_id in ids.items()}
        clips[open_id] = wav_bytes(prompt.waves[REFERENCE], rate_hz)
        pairs: list[tuple[Test, tuple[str, ...]]] = [
            ("ab", pair) for pair in itertools.combinations(arms, 2)
        ]
        for test, names in [("mushra", tuple(prompt.waves)), *pairs]:
            if test not in tests:
                continue
            rows = {ids[name]: name for name in names}
            screen_id = draw_id()
            screens[screen_id] = Screen(
                test=test, prompt=prompt.prompt, text=prompt.text, seed=prompt.seed, rows=rows
            )
            shown.append(
                {
                    "id": screen_id,
                    "test": test,
                    "text": prompt.text,
                    "reference": open_id,
                    "clips": sorted(rows),
                }
            )
    key = Key(nonce=draw_nonce(), comparison_key=comparison_key, arms=arms, screens=screens)
    return key, Sealed(sorted(shown, key=lambda screen: screen["id"]), dict(sorted(clips.items())))


def render_test(sealed: Sealed, digest: str) -> Markup:
    """Return the whole page."""
    style = _read("genlab.report", "style.css") + _read("genlab.listen", "listen.css")
    script = _read("genlab.listen", "listen.js")
    clips = {
        clip_id: f"data:audio/wav;base64,{base64.b64encode(wav).decode('ascii')}"
        for clip_id, wav in sealed.clips.items()
    }
    data = json.dumps(
        {"key_sha256": digest, "screens": sealed.screens, "clips": clips}, ensure_ascii=True
    )
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{source_hash(style)}'; "
        f"script-src '{source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    return Markup(_read("genlab.listen", "listen.html")).format(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        # Inside a script element only "</script" and "<!--" mean anything, and both begin with this
        # sign.
        data=Markup(data.replace("<", "\\u003c")),
        digest=digest[:12],
    )


def describe_test(key: Key, prompts: Sequence[PromptClips], rate_hz: int, out: Path) -> str:
    """Return the paths, what a listener has to do, and how long it takes."""
    seconds = {prompt.prompt: len(prompt.waves[REFERENCE]) / rate_hz for prompt in prompts}
    rated = [screen for screen in key.screens.values() if screen.test == "mushra"]
    compared = [screen for screen in key.screens.values() if screen.test == "ab"]
    total_s = sum(
        len(screen.rows) * (HEARINGS * seconds[screen.prompt] + DECISION_S)
        for screen in key.screens.values()
    )
    parts = [f"{len(rated)} screens of {len(rated[0].rows)} clips"] if rated else []
    parts += [f"{len(compared)} pairs"] if compared else []
    needed = prompts_needed(len(key.arms)) if len(key.arms) > 1 else 0
    note = (
        f"note:  {len(prompts)} prompts settle no pair of {len(key.arms)} arms; use at least "
        f"{needed}\n"
    )
    work = f"{' and '.join(parts)}, about {max(1, round(total_s / 60))} min a listener"
    return ("" if len(prompts) >= needed else note) + (
        f"page:  {shown(out / 'listen.html')} ({work})\n"
        f"key:   {shown(out / 'key.json')} (keep it from the listeners; send them the page alone)"
    )


def _check_place(out: Path) -> None:
    """Refuse a directory with a key, whose answers would be lost, or with a page of somebody else.

    Raises:
        GenlabError: naming the file.
    """
    if os.path.lexists(out / "key.json"):
        raise GenlabError(
            f"{shown(out / 'key.json')}: exists, and a new key would make the answers to its page "
            "unreadable; use another --out, or delete it"
        )
    page = out / "listen.html"
    refuse_to_replace(page, _is_page(page))  # one of ours without a key was cut short


def _is_page(path: Path) -> bool:
    """Return whether genlab wrote this page: by what no other file has, the data of a test."""
    content = read_content(path, fix="use another --out", max_bytes=MAX_PAGE_BYTES)
    return (
        content is not None and content.startswith(b"<!doctype html>") and DATA.encode() in content
    )


def _read(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")
