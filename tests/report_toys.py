"""The results.json and ledger.json of a comparison never run, for tests of the report."""

import copy

from genlab.run.bounds import HEARD_BASELINES


def score(value: float, half: float, seeds: int = 1, **more) -> dict:
    row = {
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": 64,
        "seeds": seeds,
        "covers": "prompts and training seeds" if seeds > 1 else "prompts",
        "unit": "errors per word",
    }
    return {**row, "direction": "lower", "validity": "metric", **more}


PLAN = {
    "target": 0.01,
    "prompts": 64,
    "seeds": 3,
    "power": 0.9,
    "seeds_needed": 3,
    "prompts_needed": {"3": 60, "5": 30, "10": 20},
    "prompt_error": 0.001,
    "level": 0.05 / 3,
    "declared": False,
}


def make_audit(trusted: bool = True) -> dict:
    return {
        "verdicts": {"noise": "ranks" if trusted else "blind"},
        "false_alarms": 0.05,
        "failed": [] if trusted else ["noise"],
        "is_trusted": trusted,
    }


def beat_floors(arms, score_name: str, floors=HEARD_BASELINES) -> list[dict]:
    """Return the differences by which arms beat the rows that they must beat."""
    return [
        {"score": score_name, "a": arm, "b": floor, "difference": -0.5, "low": -0.6, "high": -0.4}
        | {"better": arm, "p_value": 0.001, "p_holm": 0.002}
        for arm in arms
        for floor in floors
    ]


def make_results(seeds: int = 1) -> dict:
    """Return results in which every gate passes that the number of seeds does not fail."""
    values = {"real": 0.011, "codec_floor_codes": 0.0234, "codec_floor_latents": 0.021}
    values |= {"ar": 0.102, "masked": 0.143, "diffusion": 0.187}
    arms = []
    for name, value in values.items():
        family = name if name in ("ar", "masked", "diffusion", "real") else "floor"
        arm = {
            "name": name,
            "family": family,
            "reads": "latents" if name.endswith("s") and "latent" in name else "codes",
        }
        arm["scores"] = {
            "wer_grammar": score(value, value / 10, seeds),
            "speaker_similarity": score(1 - value, 0.02, seeds, direction="higher", unit="cosine"),
            "frechet": score(100 * value, 0.5, seeds, validity="biased", note="few vectors"),
        }
        if name in ("ar", "masked", "diffusion"):
            arm |= {
                "params": 1_200_000,
                "train_flops": 3e12,
                "steps": 400,
                "seconds_seen": 5200.0,
                "unique_seconds": 1500.0,
            }
            arm |= {
                "network_calls": 128,
                "sampling": {"wall_s": 2.0, "audio_s": 10.0, "first_audio_s": 0.05, "flops": 1e9},
            }
        arms.append(arm)
    arms[3]["scores"]["bits_per_s"] = score(
        1321.0, 12, seeds, validity="exact", unit="bits per second of audio"
    )
    pairs = (("ar", "masked", "ar"), ("diffusion", "ar", "ar"), ("masked", "diffusion", ""))
    differences = [
        {
            "score": "wer_grammar",
            "a": a,
            "b": b,
            "difference": values[a] - values[b],
            "better": better,
        }
        | {
            "low": values[a] - values[b] - 0.01,
            "high": values[a] - values[b] + 0.01,
            "p_value": 0.001,
            "p_holm": 0.002,
        }
        | ({"plan": copy.deepcopy(PLAN)} if seeds > 1 else {})
        for a, b, better in pairs
    ]
    differences += beat_floors(("ar", "masked", "diffusion"), "wer_grammar")
    controls = [
        {
            "arm": arm,
            "control": "prompt_swap",
            "score": "wer_grammar",
            "difference": 0.8,
            "low": 0.7,
            "high": 0.9,
        }
        | {"passed": True}
        for arm in ("ar", "masked", "diffusion")
    ]
    head = {
        "schema": 1,
        "mode": "iso_flop",
        "comparison_key": "0a1b2c3d4e",
        "wall_s": 500.0,
        "peak_rss_bytes": 2_000_000_000,
    }
    audit = {"wer_grammar": make_audit()}
    return {
        **head,
        "arms": arms,
        "controls": controls,
        "differences": differences,
        "audit": audit,
    }


def make_ledger(stamp: str = "controlled") -> dict:
    same = {"ar": "abc", "masked": "abc", "diffusion": "abc"}
    rows = [
        {"item": "Data order", "status": "matched", "values": same, "note": ""},
        {
            "item": "Parameters",
            "status": "free",
            "values": {"ar": 1_200_000, "masked": 1_300_000, "diffusion": 1},
            "note": "n",
        },
    ]
    return {"schema": 1, "stamp": stamp, "rows": rows}
