"""A listening test of a comparison that was never run, and listeners whose minds are known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genlab.listen.key import Key, digest_key
from genlab.listen.page import Sealed, seal
from genlab.listen.stimuli import PromptClips

ARMS = ("zebra_arm", "gnu_arm", "yak_arm")
ROWS = ("real", "low_anchor", "codec_floor_codes", *ARMS)
RATE_HZ = 16_000


def make_clips(
    num_prompts: int = 3, arms: tuple[str, ...] = ARMS, seconds: float = 0.1
) -> list[PromptClips]:
    rng = np.random.default_rng(0)
    names = [name for name in ROWS if name not in ARMS or name in arms]
    shape = (round(seconds * RATE_HZ),)
    return [
        PromptClips(
            number, f"text {number} </script>", 0, {n: rng.uniform(-0.1, 0.1, shape) for n in names}
        )
        for number in range(num_prompts)
    ]


def make_test(
    num_prompts: int = 3, tests=("mushra", "ab"), arms: tuple[str, ...] = ARMS
) -> tuple[Key, str, Sealed]:
    """Return key, digest of the key, and what the page gets."""
    key, sealed = seal(make_clips(num_prompts, arms), RATE_HZ, arms, tests, "0a1b2c3d4e")
    return key, digest_key(key.serialise()), sealed


def answer(
    key: Key,
    digest: str,
    listener: str,
    rate: Callable[[str, int], float],
    prefer: Callable[[str, str, int], str],
) -> dict:
    """Return what the page would save for a listener.

    Args:
        key: of the test.
        digest: of the key.
        listener: the name.
        rate: row and prompt to rating.
        prefer: two rows and the prompt to the better one, or "no difference".
    """
    screens = []
    for name, screen in key.screens.items():
        ids = {row: clip_id for clip_id, row in screen.rows.items()}
        answered = {"screen": name, "seconds": 7.5, "reference_plays": 1, "choice": ""}
        ratings = dict.fromkeys(ids)
        if screen.test == "mushra":
            ratings = {row: int(np.clip(round(rate(row, screen.prompt)), 0, 100)) for row in ids}
        else:
            choice = prefer(*ids, screen.prompt)
            answered["choice"] = ids.get(choice, choice)
        answered["clips"] = [{"id": ids[row], "plays": 2, "rating": ratings[row]} for row in ids]
        screens.append(answered)
    return {
        "format": "genlab-listening-answers-1",
        "key_sha256": digest,
        "listener": listener,
        "screens": screens,
    }


def save(folder: Path, values: dict, name: str = "") -> Path:
    path = folder / f"{name or values['listener']}.json"
    path.write_text(json.dumps(values))
    return path
