"""What a report says of how its numbers were made: prompts, codec, baselines, intervals, bits."""

from genlab.experiment import Comparison
from genlab.fairness.rates import describe_rates
from genlab.material import Material
from genlab.report.baselines import describe_baselines


def describe_method(config: Comparison, material: Material) -> list[str]:
    """Return the facts behind a table, a sentence or two each."""
    spec, content = material.store.info.spec, config.condition.content
    told = {"semantic": ["frame-aligned semantic units"], "text": ["text"], "none": []}[content]
    domain = config.data.domain
    named = [f"the {domain.label}"] if config.condition.speaker else []
    told = [*named, *told, "the number of frames"]
    told += [part.name for part in config.condition.parts]
    unit = "texts" if domain.unit == "text" else "clips"
    # The page prints these lines as they are; facts come from the config, never from memory.
    return [
        f"{len(material.clips)} prompts from the {config.prompts_split} split, whose {unit} "
        f"no arm has seen. The conditions are those of the real clip: {', '.join(told)}. Every arm "
        "draws prompt i with the same seed.",
        f"{_describe_codec(config, material)}: {spec.frame_hz:g} frames/s, "
        f"{spec.codebooks} codebooks of {spec.entries} entries ({spec.bitrate_bps / 1000:g} "
        f"kbit/s), {spec.latent_channels} latent channels. {_describe_floors(config)}",
        *describe_baselines(config.measured_baselines),
        *describe_rates(config),
        _coverage(len(config.seeds)),
        "Bits per second are those of the prompts' own codes, given the conditions: exact, or an "
        f"upper bound averaged over {config.evaluation.score_draws} draws per clip, through "
        "latents with a q as wide as is best on unscored clips. They rank two arms only where "
        "both are exact, or where the bound of one lies below the exact value of the other.",
    ]


def _describe_codec(config: Comparison, material: Material) -> str:
    if config.data.own is None:
        return f"One frozen codec ({material.codec.fingerprint})"
    made_by = config.data.own.spec.codec
    return "Tokens that were encoded elsewhere" + (f", by {made_by}" if made_by else "")


def _describe_floors(config: Comparison) -> str:
    if config.data.own is None:
        return "Its floors show how much of a clip these tokens keep."
    if not config.data.is_heard:
        return (
            "No codec is named, so nothing was decoded: arms are scored in bits, and the times of "
            "sampling are those until the codes are drawn."
        )
    return (
        "No recordings were given: what stands for real audio is what the codec makes of the given "
        "codes, so it is no better than the floor of the codes. Latents are sums of code vectors."
    )


def _coverage(num_seeds: int) -> str:
    if num_seeds == 1:
        return (
            "Intervals are 95 % bootstrap intervals over prompts. They do not cover the training "
            "seed: one seed per arm says nothing about what another would have given."
        )
    return (
        "Intervals are 95 % intervals over prompts and training seeds, two crossed random units, "
        "by Student's t. A difference of two arms is paired by prompt and not by seed: seeds "
        "numbered alike are independent draws, unless both arms share each training and differ in "
        "how they sample. Scores of whole sets of clips are means over the "
        f"{num_seeds} seeds, and their intervals cover both as well."
    )
