"""What the pages about mixers share: one arm, and its backbone at two sizes with several mixers.

Question: none of its own; each page beside it asks one. A mixer is a field of the backbone, which
all arms of a comparison share, so mixers are points of a sweep and the one arm is compared with
itself. Mixers of equal width have not as many parameters: the feed-forward parts make up for that,
to 3 % of a layer.
"""

from collections.abc import Mapping

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.experiment import Arm, Budget, Comparison
from genlab.load import call_base
from genlab.sweeps.page import Point

# Layers by width.
SIZES = {128: 3, 192: 4}
NAMES = {
    "backbone.mixer.kind": "mixer",
    "backbone.mixer.kv_heads": "kv_heads",
    "backbone.mixer.sinks": "sinks",
    "backbone.ffn.kind": "ffn",
    "backbone.width": "width",
}
# Fields that go with one of those are in no label.
WITH_THEM = (
    "backbone.layers",
    "backbone.ffn_multiple",
    "backbone.mixer.frames",
    "backbone.mixer.latent",
    "backbone.mixer.rope_channels",
    "budget.train_flops",
)


def base(*, budget: Budget, num_frames: int = 96, heads: int = 4) -> Comparison:
    """Return a comparison of bits with the arm `ar`."""
    shared = call_base(__file__, "base.py")
    arm = Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler())
    update = {
        "arms": {"ar": arm},
        "budget": budget,
        "data": shared.data.model_copy(update={"num_frames": num_frames}),
        "backbone": shared.backbone.model_copy(update={"heads": heads}),
    }
    return shared.model_copy(update=update)


def points(by_mixer: Mapping[str, Mapping[int, Mapping[str, object]]]) -> tuple[Point, ...]:
    """Return a point for each mixer at each size, given its fields of `backbone` at every width."""
    return tuple(
        {
            **{f"backbone.{path}": value for path, value in fields[width].items()},
            "backbone.width": width,
            "backbone.layers": layers,
        }
        for width, layers in SIZES.items()
        for fields in by_mixer.values()
    )


def names() -> dict[str, str]:
    """Return what labels call the fields of the points."""
    return NAMES | dict.fromkeys(WITH_THEM, "")
