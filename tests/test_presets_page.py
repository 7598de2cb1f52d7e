"""docs/presets.md places every preset on the axes; what a config says itself is read from it."""

import json
import re
from pathlib import Path

import pytest

from genlab.load import load_experiment

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "configs" / "presets").glob("*.py"))
PAGE = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
# What a family draws, in which order, and how it is noised.
FAMILIES = {
    "ar": ("codes", ("at a time", "none")),
    "depth": ("codes", ("depth transformer", "none")),
    "latent_ar": ("latents", ("one frame at a time", "none")),
    "mar": ("latents", ("random order", "masked")),
    "masked": ("codes", ("all frames of a level", "masked")),
    "discrete": ("codes", ("all at once", "absorbing")),
    "blockwise": ("codes", ("blocks of frames", "absorbing")),
    "latent_blocks": ("latents", ("blocks of frames", "Gaussian")),
    "diffusion": ("latents", ("all at once", "Gaussian")),
}
HEADS = {"gmm": "Gaussian mixture", "flow": "flow", "energy": "energy score"}


def test_every_preset_has_a_row():
    assert list(ROWS) == [path.stem for path in PRESETS]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_row_of_a_preset_is_its_config(path):
    run = json.loads(json.dumps(load_experiment(path).to_dict()))
    arm = run["arm"] if "arm" in run else next(iter(run["arms"].values()))
    source, target, order, noise, head, mixer, told = ROWS[path.stem]
    decoder, condition, backbone = arm["decoder"], run["condition"], run["backbone"]
    drawn, (ordered, noised) = FAMILIES[decoder["kind"]]
    assert target == ("samples" if run["data"]["codec"].startswith("mulaw") else drawn)
    assert ordered in order and noise == noised
    if drawn == "codes":
        assert head == "softmax"
    elif "head" in decoder:
        assert head == HEADS[decoder["head"]["kind"]]
    else:
        assert head == "regression of the velocity"
    network = decoder.get("network", {}).get("kind", "backbone")
    mixers = backbone["mixer"] if isinstance(backbone["mixer"], list) else [backbone["mixer"]]
    parts = [each["kind"] for each in mixers] if network == "backbone" else [network]
    parts += [backbone["ffn"]["kind"]] if backbone["ffn"]["kind"] != "swiglu" else []
    assert mixer == ", ".join(f"`{part}`" for part in parts)
    route = condition["route" if condition["content"] == "text" else "units_route"]
    assert told == f"`{condition['content']}`, `{route}`"
    # The paper that the row names is the one that the file names.
    [paper] = re.findall(r"\d{4}\.\d{4,5}", source) or [source.split()[0]]
    assert paper in path.read_text(encoding="utf-8")
