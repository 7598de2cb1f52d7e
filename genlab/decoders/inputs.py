"""What a decoder refuses: tokens and conditions that are not of its task, and samplers of another
family.

Shapes and dtypes are checked always, also under `jax.jit`. Values (ranges, lengths) are checked
where they are known: in a call outside of `jax.jit`, in `Task.check`, and on every batch of
`train`. Out of range a table would answer with some other vector, so nothing below would notice.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType
from jaxtyping import Array, Int, PyTree

from genlab.config import Config, GenlabError
from genlab.decoders.conditioning import ConditionConfig, Conditioner, CondVocab
from genlab.decoders.parts import ConditionPart
from genlab.tokens import Cond, Prompt, Tokens, TokenSpec

# Latents of a codec are normalised over a corpus; one clip of it lies well within these.
MAX_LATENT_MEAN = 1.0
LATENT_STD_RANGE = (0.3, 3.0)


class Facts(NamedTuple):
    """What inputs must agree with. `reads` is the view that the decoder reads, None for both."""

    spec: TokenSpec
    condition: ConditionConfig | None
    vocab: CondVocab | None
    reads: str | None = None


def facts_of(model: Any) -> Facts:
    """Return the facts of a decoder; an own conditioner checks its own conditions."""
    conditioner = model.conditioner
    known = isinstance(conditioner, Conditioner)
    return Facts(
        model.spec,
        conditioner.config if known else None,
        conditioner.vocab if known else None,
        model.reads,
    )


def check_call(model: Any, tokens: Tokens, cond: Cond, reads: str | None = None) -> None:
    """Check what `loss` and `score` are given; `reads` names the view that is read, if it is not
    the model's own.

    Raises:
        GenlabError: naming the field, its value and what was expected.
    """
    _check_axes((tokens, cond))
    facts = facts_of(model)
    check_inputs(facts._replace(reads=reads or facts.reads), tokens, cond)


def check_sample(
    model: Any,
    cond: Cond,
    num_frames: Int[Array, "b"],
    sampler: object,
    family: type[Config],
    prompt: Prompt | None = None,
) -> None:
    """Check what `sample` and `stream` are given; `family` is the sampler that the decoder takes.

    Raises:
        GenlabError: naming the field, its value and what was expected.
    """
    if not isinstance(sampler, family):
        raise GenlabError(
            f"sampler: got {type(sampler).__name__}, expected {family.__name__}, the sampler of "
            f"{type(model).__name__}"
        )
    facts = facts_of(model)
    _check_axes((cond, num_frames, prompt))
    _check_guidance(facts.condition, sampler)
    # There are no tokens yet, so the content says how many clips of how many frames are filled.
    b, t = cond.content.shape
    _check_cond(facts, cond, b, None)
    fix = "the frames of cond.content, which sample fills; with nothing to tell use Cond.none(b, t)"
    _check_lengths(num_frames, b, t, fix)
    if prompt is not None:
        if prompt.is_known.shape != (b, t):
            raise GenlabError(
                f"prompt.is_known: shape {prompt.is_known.shape}, expected {(b, t)} as "
                "cond.content has"
            )
        _check_tokens(facts, prompt.tokens, "prompt.tokens.")


def check_inputs(facts: Facts, tokens: Tokens, cond: Cond) -> None:
    """Check a batch of tokens with its conditions.

    Raises:
        GenlabError: naming the field, its value and what was expected.
    """
    b, t = _check_tokens(facts, tokens, "")
    _check_lengths(tokens.num_frames, b, t, "the frames that there are")
    _check_cond(facts, cond, b, t)


def batch_check(model: Any) -> Callable[[Any], None]:
    """Return what `train` calls on every batch: a check if `model` is a decoder of tokens, else
    nothing.
    """
    if not all(hasattr(model, name) for name in ("spec", "reads", "conditioner")):
        return lambda batch: None
    facts = facts_of(model)

    def check(batch: Any) -> None:
        if not (len(batch.args) == 2 and isinstance(batch.args[0], Tokens)):
            return
        try:
            check_inputs(facts, *batch.args)
        except GenlabError as error:
            raise GenlabError(
                f"training clips {np.asarray(batch.clip_ids).tolist()}: {error}"
            ) from None

    return check


def _check_tokens(facts: Facts, tokens: Tokens, prefix: str) -> tuple[int, int]:
    """Check the views that are read, and return batch and frames."""
    spec = facts.spec
    shape = None
    views = {
        name: getattr(tokens, name) for name in ("codes", "latents") if facts.reads in (None, name)
    }
    for name, view in views.items():
        if view is None:
            continue
        channels = spec.codebooks if name == "codes" else spec.latent_channels
        axes = "(batch, frames, codebooks)" if name == "codes" else "(batch, frames, channels)"
        if view.ndim != 3 or view.shape[2] != channels:
            hint = ""
            if view.ndim == 3 and view.shape[1] == channels:
                hint = f"; it looks like {name} with frames last: use {name}.swapaxes(1, 2)"
            raise GenlabError(
                f"{prefix}{name}: shape {view.shape}, expected {axes} with {channels} last{hint}"
            )
        if shape is not None and view.shape[:2] != shape:
            raise GenlabError(
                f"{prefix}{name}: shape {view.shape}, expected batch and frames {shape} as the "
                "codes have"
            )
        shape = view.shape[:2]
        if name == "codes":
            hint = "; padding is 0, and num_frames says where it begins"
            _check_whole(view, f"{prefix}codes", 0, spec.entries - 1, hint)
        else:
            _check_latents(tokens, f"{prefix}latents")
    if shape is None:  # the decoder itself says which view it needs
        view = next(view for view in (tokens.codes, tokens.latents) if view is not None)
        shape = (view.shape[0], view.shape[1])
    return shape


def _check_latents(tokens: Tokens, name: str) -> None:
    latents = tokens.latents
    assert latents is not None, "the caller has looked"
    if not np.issubdtype(latents.dtype, np.floating) and str(latents.dtype) != "bfloat16":
        raise GenlabError(f"{name}: dtype {latents.dtype}, expected floats")
    values = _host(latents)
    num_frames = _host(tokens.num_frames)
    if values is None or num_frames is None or num_frames.shape != values.shape[:1]:
        return  # not known here, or refused where lengths are checked
    if num_bad := int((~np.isfinite(values)).sum()):
        raise GenlabError(
            f"{name}: {num_bad} of {values.size} values are not finite; expected finite latents"
        )
    valid = values[np.arange(values.shape[1])[None, :] < num_frames[:, None]]
    mean, std = (float(valid.mean()), float(valid.std())) if valid.size else (0.0, 1.0)
    low, high = LATENT_STD_RANGE
    if abs(mean) > MAX_LATENT_MEAN or not low <= std <= high:
        warnings.warn(
            f"{name}: mean {mean:.3g} and standard deviation {std:.3g}, expected about 0 and 1; "
            "normalise each channel by its mean and deviation over the training data",
            stacklevel=4,
        )


def _check_lengths(
    num_frames: Int[Array, "..."] | Int[np.ndarray, "..."], b: int, t: int, what: str
) -> None:
    if num_frames.shape != (b,):
        raise GenlabError(
            f"num_frames: shape {num_frames.shape}, expected {(b,)}, one length per example"
        )
    _check_whole(num_frames, "num_frames", 0, t, f", {what}")


def _check_part(part: ConditionPart, cond: Cond, t: int | None) -> None:
    """Check that the values of a named condition are there, and have its shape and type."""
    leaf = (cond.parts or {}).get(part.name)
    if leaf is None:
        raise GenlabError(
            f"cond.parts: no {part.name!r}, which condition.parts names; open the store with it"
        )
    names = getattr(part, "names", ())
    if names and leaf.dtype == np.float32 and leaf.shape[1:] == (len(names),):
        return  # a mixture of names, given by hand
    wanted = (*((t,) if part.is_per_frame and t is not None else ()), *part.shape)
    found = tuple(leaf.shape[1:] if t is not None or not part.is_per_frame else leaf.shape[2:])
    if found != wanted or leaf.dtype != part.dtype:
        raise GenlabError(
            f"cond.parts[{part.name!r}]: {leaf.dtype} with shape {leaf.shape}, expected "
            f"{part.dtype} of a batch of {wanted}"
        )


def _check_cond(facts: Facts, cond: Cond, b: int, t: int | None) -> None:
    """Check the conditions; t frames if they are known, and if the content is frame by frame."""
    leaves = cond._replace(parts=None, absent=None)._asdict()
    leaves |= {f"parts[{name!r}]": leaf for name, leaf in (cond.parts or {}).items()}
    leaves |= {f"absent[{name!r}]": leaf for name, leaf in (cond.absent or {}).items()}
    for name, leaf in leaves.items():
        if leaf is not None and (leaf.ndim == 0 or leaf.shape[0] != b):
            raise GenlabError(
                f"cond.{name}: shape {leaf.shape}, expected a batch of {b} as the rest has"
            )
    # Only what the model reads: a field that no condition uses may hold anything.
    condition, vocab = facts.condition, facts.vocab
    if condition is None or vocab is None:
        return
    for part in condition.parts:
        _check_part(part, cond, t)
    if unknown := sorted(set(cond.absent or {}) - set(condition.dropouts)):
        known = ", ".join(condition.dropouts) or "none"
        raise GenlabError(f"cond.absent: no input {unknown[0]!r}, expected one of {known}")
    if condition.speaker and cond.speaker.ndim == 2:
        if cond.speaker.shape[1] > vocab.num_speakers or cond.speaker.dtype.kind != "f":
            raise GenlabError(
                f"cond.speaker: {cond.speaker.dtype} of shape {cond.speaker.shape}, expected "
                f"numbers of speakers, or a float weight for each of {vocab.num_speakers}"
            )
    elif condition.speaker:
        _check_whole(cond.speaker, "cond.speaker", 0, vocab.num_speakers - 1)
    if condition.content == "text":
        _check_whole(cond.text, "cond.text", 0, vocab.num_symbols - 1)
    if condition.content == "semantic":
        if t is not None and cond.content.shape[1] != t:
            raise GenlabError(
                f"cond.content: {cond.content.shape[1]} frames, expected {t} as the tokens have: "
                "one unit per frame"
            )
        _check_whole(cond.content, "cond.content", 0, vocab.num_units)
    if cond.other is not None:
        _check_whole(cond.other, "cond.other", 0, facts.spec.entries - 1)


def _check_guidance(condition: ConditionConfig | None, sampler: object) -> None:
    if condition is None:
        return
    guidance = float(getattr(sampler, "guidance", 1.0))
    if guidance != 1 and (not condition.dropouts or condition.dropout == 0):
        why = (
            "condition.dropout=0 never trains"
            if condition.dropouts
            else "a decoder without conditions does not have"
        )
        raise GenlabError(
            f"sampler.guidance={guidance:g}: it contrasts with dropped conditions, which {why}; "
            "use guidance=1"
        )
    if problem := condition.problem_of_guidance(sampler):
        raise GenlabError(f"sampler.{problem}")


def _check_whole(
    values: Array | np.ndarray, name: str, low: int, high: int, hint: str = ""
) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise GenlabError(f"{name}: dtype {values.dtype}, expected integers {low}..{high}")
    known = _host(values)
    if known is not None and known.size and not low <= int(known.min()) <= int(known.max()) <= high:
        raise GenlabError(f"{name}: {known.min()}..{known.max()}, expected {low}..{high}{hint}")


def _host(values: object) -> np.ndarray | None:
    """Return the values where this process has them, None under `jax.jit` and where other hosts
    hold a part.
    """
    if isinstance(values, Tracer | jax.ShapeDtypeStruct):
        return None
    if isinstance(values, jax.Array) and not values.is_fully_addressable:
        return None
    return np.asarray(values)


def _check_axes(tree: PyTree) -> None:
    """Refuse a mesh with Explicit axes: every indexing and reshape would have to answer it."""
    for leaf in jax.tree.leaves(tree):
        mesh = getattr(getattr(jax.typeof(leaf), "sharding", None), "mesh", None)
        for axis, kind in zip(mesh.axis_names, mesh.axis_types) if mesh is not None else ():
            if kind == AxisType.Explicit:
                raise GenlabError(
                    f"mesh: axis {axis!r} is Explicit, the default of jax.make_mesh, but genlab "
                    "leaves layouts to the compiler; pass "
                    "axis_types=(jax.sharding.AxisType.Auto,) for each axis, or use "
                    "genlab.machine.use_mesh"
                )
