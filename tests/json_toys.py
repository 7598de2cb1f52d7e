"""One of every JSON file that is read back, whole, and seeded damage to it."""

import copy
import json
import math

from report_toys import make_ledger, make_results, score

MUTANTS = [
    None,
    True,
    -1,
    0,
    3,
    0.5,
    -0.5,
    1e-320,
    1e90,
    1e308,
    10**30,
    10**400,
    math.nan,
    math.inf,
    "",
    "x",
    "\ud800",
    "a" * 5000,
    "<b>",
    "\0",
    [],
    [1],
    ["x"],
    [None],
    [[]],
    {},
    {"a": 1},
    {"value": None},
    ["x", "y", "z"],
]
PLAN = {
    "target": 0.1,
    "prompts": 8,
    "seeds": 3,
    "power": 0.7,
    "seeds_needed": 4,
    "prompts_needed": {"3": 9, "5": None},
    "prompt_error": 0.02,
}


def whole_results():
    """A results.json with all that the tables and the report ask for."""
    results = {
        **make_results(seeds=3),
        "question": "Which?",
        "command": "genlab compare x",
        "commit": "0a1b",
    }
    results |= {
        "versions": {"jax": "1"},
        "method": ["How."],
        "primary_score": "wer_grammar",
        "codec": {"fingerprint": "c"},
    }
    for arm in results["arms"]:
        if arm["family"] not in ("real", "floor"):
            arm |= {"train_wall_s": 3.0, "epochs": 1.5}
            arm["sampling"] |= {"real_time_factor": 0.2, "latency_s": 0.4}
            arm["by_length"] = {"2": {"latency_s": [0.1, 0.2], "network_calls": 9, "flops": 1e9}}
    for entry in results["differences"]:
        entry |= {"margin": 0.05, "equivalent": False, "plan": copy.deepcopy(PLAN)}
    audit = {
        "verdicts": {"noise": "ranks", "coarse": "blind"},
        "false_alarms": 0.1,
        "failed": ["coarse"],
    }
    results["audit"] = {"wer_grammar": {**audit, "is_trusted": False, "values": {"noise": [0.1]}}}
    return results


def whole_tuning():
    setting = {
        "peak_lr": 1e-3,
        "warmup_fraction": 0.1,
        "weight_decay": 0.1,
        "ema_decay": None,
        "dropout": 0.0,
    }
    trial = {
        "setting": setting,
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "train_flops": 1e9,
        "steps": 5,
        "wall_s": 1.0,
    }
    trials = [{**trial, "number": number, "note": ""} for number in range(3)]
    best_of = [{"k": k, "value": 0.5 / k, "low": None, "high": 0.6} for k in (1, 2)]
    arm = {
        "family": "ar",
        "key": "k",
        "num_trials": 3,
        "train_flops": 3e9,
        "best": 1,
        "setting": setting,
    }
    arms = {name: {**arm, "best_of": best_of, "trials": trials} for name in ("ar", "masked")}
    head = {
        "schema": 1,
        "name": "toy",
        "unit": "errors per word",
        "direction": "lower",
        "trials": 3,
        "fraction": 0.25,
    }
    space = {"peak_lr": [1e-4, 1e-2], "dropout": [0.0, 0.2]}
    return copy.deepcopy(
        {
            **head,
            "space": space,
            "by": "wer_ctc",
            "sampler": "random",
            "num_prompts": 8,
            "arms": arms,
        }
    )


def whole_fronts():
    costs = {"network_calls": 9, "flops_per_s": 1e9, "latency_s": 0.1, "throughput_s": 0.2}
    return [
        {
            "arm": arm,
            "setting": f"steps {n}",
            "score": score(0.1 * n, 0.02),
            "costs": {**costs, "latency_s": 0.1 * n},
        }
        | {"dominated_by": {cost: "own setting" if n == 2 else "" for cost in costs}}
        for arm in ("ar", "masked")
        for n in (1, 2, 3)
    ]


def whole_crossings():
    curve = {"x": [1e9, 1e10], "score": [0.3, 0.2], "grid": [1e9, 3e9, 1e10]}
    curve |= {"fit": [0.3, 0.25, 0.2], "low": [0.2, 0.2, 0.1], "high": [0.4, 0.3, 0.3]}
    entry = {
        "score": "wer_ctc",
        "unit": "errors per word",
        "direction": "lower",
        "axis": "training FLOPs",
    }
    entry |= {
        "num_runs": 2,
        "curves": {"ar": curve, "masked": curve},
        "table": [["x", "ar"], ["1e9", "0.3"]],
    }
    return copy.deepcopy([{**entry, "verdicts": ["ar leads"], "notes": []}])


def whole_listening():
    pair = {
        "a": "ar",
        "b": "masked",
        "low": -0.1,
        "high": 0.3,
        "p_value": 0.2,
        "p_holm": 0.4,
        "better": "",
    }
    rows = [
        {"row": name, "mean": 50.0, "low": 40.0, "high": 60.0} for name in ("real", "ar", "masked")
    ]
    excluded = [{"listener": "jo", "missed": 3, "screens": 9}]
    merged = {
        "schema": 1,
        "reference": "real",
        "listeners": {"counted": 3, "needed": 8, "excluded": excluded},
    }
    merged["mushra"] = {"rows": rows, "pairs": [{**pair, "difference": 0.1}], "winner": ""}
    merged["ab"] = {
        "pairs": [{**pair, "prefer_a": 2, "prefer_b": 1, "ties": 0, "share_a": 0.6}],
        "winner": "ar",
    }
    return merged


def whole_row():
    values = {
        "totals": [1.0, 2.0],
        "weights": [3.0, 0.0],
        "clusters": ["a", "b"],
        "validity": "metric",
        "runs": [0, 0],
    }
    one = {
        key: value
        for key, value in score(0.1, 0.02).items()
        if key in ("value", "low", "high", "n", "seeds", "unit")
    }
    scores = {
        "wer_ctc": {
            **one,
            "direction": "lower",
            "validity": "metric",
            "note": "",
            "covers": "prompts",
        }
    }
    control = {
        "control": "prompt_swap",
        "score": "wer_ctc",
        "difference": math.nan,
        "low": math.nan,
        "high": math.nan,
    }
    controls = [{**control, "passed": False, "reason": "too few prompts"}]
    return {
        "scores": scores,
        "per_clip": {"wer_ctc": values},
        "transcripts": {"ctc": ["a", "b"]},
        "controls": controls,
    }


def damage(values, rng):
    """Return the bytes of `values` with one seeded damage."""
    values = copy.deepcopy(values)
    kind = rng.integers(10)
    if kind < 7:
        _mutate(values, rng)
    text = json.dumps(values)
    content = text.encode()
    if kind == 7:
        return content[: rng.integers(len(content))]
    if kind == 8:
        changed = bytearray(content)
        changed[rng.integers(len(changed))] = rng.integers(256)
        return bytes(changed)
    if kind == 9:
        deep = b"[" * 50_000
        repeated = b'{"schema": 1, ' + content[1:] if content[:1] == b"{" else b"[" + content
        return [b"", b"\xff\xfe", b" ", b"null", b"3", deep, repeated, b"\xef\xbb\xbf" + content][
            rng.integers(8)
        ]
    return content


def _mutate(values, rng):
    """Delete, replace, rename or nest something at a place that is drawn evenly over all tables and
    lists.
    """
    places = list(_places(values))
    node, key = places[rng.integers(len(places))]
    action = rng.integers(5)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node["a new name"] = node.pop(key)
    elif action == 2:
        deep = value = []
        for _ in range(int(rng.integers(1, 200))):
            deep.append([])
            deep = deep[0]
        node[key] = value
    else:
        node[key] = copy.deepcopy(MUTANTS[rng.integers(len(MUTANTS))])


def _places(values):
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        yield values, key
        if isinstance(value, dict | list):
            yield from _places(value)


def whole_ledger():
    return make_ledger()
