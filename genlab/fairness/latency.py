"""The most steps that a sampler can take within a sampling budget.

In: an arm, its task and what drawing one clip may cost. Out: its sampler with as many steps as fit,
everything else as the config says. A family without steps, one that draws code by code, has one
cost; it fits or is refused.
"""

from genlab.config import GenlabError
from genlab.decoders.cost import sample_cost
from genlab.decoders.task import DecoderConfig, SamplerConfig, Task
from genlab.training.spend import SamplingBudget

MOST_STEPS = 10_000  # as samplers allow
# Where samplers say how often they call the network: rounds before the steps inside each.
STEP_FIELDS = ("rounds", "steps")


def with_steps(sampler: SamplerConfig, steps: int) -> SamplerConfig | None:
    """Return the sampler with another number of steps, or None if it has none to choose.

    Of a sampler with steps per level the first level gets them; the others keep theirs.
    """
    for name in STEP_FIELDS:
        own = getattr(sampler, name, None)
        if isinstance(own, int):
            return type(sampler).from_dict({**sampler.to_dict(), name: steps})
        if isinstance(own, tuple) and own:
            return type(sampler).from_dict({**sampler.to_dict(), name: [steps, *own[1:]]})
    return None


def steps_of(sampler: SamplerConfig) -> int | None:
    """Return the number that `with_steps` replaces, None if there is none to choose."""
    for name in STEP_FIELDS:
        own = getattr(sampler, name, None)
        if isinstance(own, tuple) and own:
            own = own[0]
        if isinstance(own, int):
            return own
    return None


def has_steps(decoder: DecoderConfig, sampler: SamplerConfig, task: Task) -> bool:
    """Return whether more steps cost more: a head that does not iterate has the field for
    nothing.
    """
    fewest, more = with_steps(sampler, 1), with_steps(sampler, 2)
    if fewest is None or more is None:
        return False
    return sample_cost(decoder, more, task).flops > sample_cost(decoder, fewest, task).flops


def fit_sampler(
    name: str, decoder: DecoderConfig, sampler: SamplerConfig, task: Task, limit: SamplingBudget
) -> SamplerConfig:
    """Return the sampler with the most steps whose cost per clip is within `limit`.

    Raises:
        GenlabError: if even the fewest steps cost more.
    """

    def cost(candidate: SamplerConfig) -> float:
        found = sample_cost(decoder, candidate, task)
        return found.flops if limit.calls is None else found.network_calls

    allowed = limit.flops if limit.calls is None else limit.calls
    unit = "flops" if limit.calls is None else "calls"
    assert allowed is not None, "a sampling budget has one of the two"

    def fits(steps: int) -> bool:
        candidate = with_steps(sampler, steps)
        return candidate is not None and cost(candidate) <= allowed

    fewest = with_steps(sampler, 1) or sampler
    if cost(fewest) > allowed:
        own = "" if fewest is sampler else " with one step"
        raise GenlabError(
            f"arms.{name}: drawing a clip of {task.num_frames} frames{own} costs "
            f"{cost(fewest):.6g} {unit}, more than budget.sampling.{unit}={allowed:.6g}; raise "
            f"budget.sampling.{unit} to {cost(fewest):.6g}, or leave the arm out"
        )
    if not has_steps(decoder, sampler, task):
        return sampler
    # The cost rises with the steps, so the last number that fits is found by halving.
    low, high = 1, MOST_STEPS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return with_steps(sampler, low) or sampler
