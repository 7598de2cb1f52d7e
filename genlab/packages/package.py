"""A trained arm in a folder that needs neither its run nor its corpus.

    config.json         the run that trained it
    inputs.json         codec, corpus, speakers and the statistics of latents, by digest
    model.safetensors   the parameters that are sampled and scored, in float32
    model.json          what they are: the token space, the conditions, the SHA-256 of every file
    README.md           what it is and how it is loaded, for people

In: a run directory of an arm. Out: such a folder, and from it the model with what it takes to use
it. The folder has the names of a run directory, so `genlab sample FOLDER` reads it like one.

    package = load_package("my-arm")
    drawn = package.sample(package.task.no_cond(1), seed=0)
    waves = package.decode(drawn)
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree
from pydantic import JsonValue
from typing_extensions import TypedDict

from genlab import __version__
from genlab.config import GenlabError
from genlab.data.store import TokenStore
from genlab.decoders.conditioning import CondVocab
from genlab.decoders.task import Task
from genlab.decoders.views import check_view
from genlab.experiment import DecoderRun
from genlab.inputs import INPUTS_NAME, Inputs, open_store, read_inputs
from genlab.load import load_experiment
from genlab.nets.weights import load_metadata, load_weights, save_weights
from genlab.run.files import write_json
from genlab.run.stored import OPEN, Count, parse_stored, partial_path
from genlab.tokens import Cond, Decoder, Prompt, Tokens, TokenSpec
from genlab.train import load_trained, restore_trained
from genlab.training.step import split_model

CONFIG, WEIGHTS, FACTS, CARD = "config.json", "model.safetensors", "model.json", "README.md"
FILES = (CONFIG, INPUTS_NAME, WEIGHTS, FACTS, CARD)
FORMAT = 1
FIX = "export it again with `genlab export`"
_Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


@pydantic.with_config(OPEN)
class PackageFacts(TypedDict):
    """`model.json`, beside what every file of weights has."""

    format: Count
    spec: dict[str, JsonValue]
    vocab: dict[str, JsonValue]
    num_frames: Count
    num_symbols: Annotated[int, pydantic.Field(ge=0, le=2**20)]
    step: Count
    num_parameters: Count
    stored_dtype: Literal["float32"]
    files: dict[str, _Sha256]
    """The digests of config.json and inputs.json; that of the weights is `sha256`."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A trained decoder with what it takes to use it."""

    run: DecoderRun
    task: Task
    inputs: Inputs
    model: Decoder

    def sample(
        self,
        cond: Cond,
        num_frames: Sequence[int] | None = None,
        *,
        seed: int,
        prompt: Prompt | None = None,
    ) -> Tokens:
        """Return tokens drawn with the arm's own sampler, in one compiled call.

        Args:
            cond: a batch of conditions, for example `task.no_cond(batch)`.
            num_frames: of each; the frames of a training example if nothing is said.
            seed: of the draws.
            prompt: what is known of each clip.
        """
        batch = cond.speaker.shape[0]
        frames = np.asarray(num_frames or [self.task.num_frames] * batch, np.int32)
        sampler = self.run.arm.sampler

        @nnx.jit
        def draw(model: Decoder, cond: Cond, frames: jax.Array, key: jax.Array) -> Tokens:
            return model.sample(
                cond, num_frames=frames, key=key, sampler=sampler, prompt=prompt
            ).tokens

        return draw(self.model, cond, jnp.asarray(frames), jax.random.key(seed))

    def decode(self, tokens: Tokens) -> list[Float[np.ndarray, "s"]]:
        """Return the wave of each clip, by the codec that the model was trained on.

        Raises:
            GenlabError: if the codec that the config names is another one by now.
        """
        codec = self.run.data.load_codec()
        if codec.fingerprint != self.inputs["codec"]:
            raise GenlabError(
                f"data.codec={self.run.data.codec!r}: fingerprint {codec.fingerprint}, but the "
                f"package was trained on {self.inputs['codec']}; install the codec of that version"
            )
        lengths = np.asarray(tokens.num_frames)
        if tokens.codes is not None:
            rows = np.asarray(tokens.codes)
            return codec.decode_codes([row[:n] for row, n in zip(rows, lengths)])
        mean, std = (
            np.asarray(self.inputs[name], np.float32) for name in ("latent_mean", "latent_std")
        )
        rows = np.asarray(tokens.latents, np.float32) * std + mean
        return codec.decode_latents([row[:n] for row, n in zip(rows, lengths)])


def export_package(run: DecoderRun, run_dir: Path, out: Path) -> dict[str, JsonValue]:
    """Write the trained arm in `run_dir` to the folder `out`, whole or not at all.

    Returns:
        What `model.json` says.

    Raises:
        GenlabError: if `out` exists, or `run_dir` holds no finished training.
    """
    if os.path.lexists(out):
        raise GenlabError(f"--out {out}: already exists; name another folder, or move it away")
    store = open_store(run.data, run_dir, parts=run.condition.parts)
    trained, restored = restore_trained(lambda key: run.build_for(store, key), run_dir)
    model = cast(Decoder, trained)
    if restored.step != run.steps:
        raise GenlabError(
            f"{run_dir}: its newest checkpoint is of step {restored.step} of {run.steps}; finish "
            "the training first: the same `genlab compare` or `genlab train` resumes it"
        )
    task, inputs = run.task(store), read_inputs(run_dir)
    if inputs is None:
        raise GenlabError(
            f"{run_dir}: made by a version that did not record its inputs, without which nobody "
            "could use the package; train it again"
        )
    # All files under another name, which one rename makes the package's.
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)  # of this process number, killed long ago
    try:
        partial.mkdir()
        write_json(partial / CONFIG, run.to_dict())
        write_json(partial / INPUTS_NAME, inputs)
        facts = save_weights(
            partial / WEIGHTS,
            _tree_of(*split_model(trained)[1:]),
            {
                "format": FORMAT,
                "genlab": __version__,
                "spec": task.spec.to_dict(),
                "vocab": task.vocab.to_dict(),
                "num_frames": task.num_frames,
                "num_symbols": task.num_symbols,
                "step": restored.step,
                "files": {name: _digest(partial / name) for name in (CONFIG, INPUTS_NAME)},
            },
            dtype="float32",
        )
        (partial / CARD).write_text(describe(run, inputs, facts, model.reads))
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return facts


def load_package(path: str | Path, *, trust_code: bool = False) -> Package:
    """Return the model in a folder that `export_package` wrote. Its corpus is not needed.

    Args:
        path: the folder.
        trust_code: whether Python files that its config refers to may run.

    Raises:
        GenlabError: naming the file that is missing, damaged or was changed.
    """
    folder = Path(path)
    facts = _read_facts(folder)
    run = load_experiment(folder / CONFIG, trust_code=trust_code)
    if not isinstance(run, DecoderRun):
        raise GenlabError(f"{folder / CONFIG}: kind {run.kind!r}, expected 'decoder'; {FIX}")
    inputs = read_inputs(folder)
    if inputs is None:
        raise GenlabError(f"{folder / INPUTS_NAME}: no such file; {FIX}")
    task = _task_of(run, facts, inputs, folder)
    shape, model = _entries_of(task.spec), _read_model(run, task, folder)
    # Only now that the weights agree with the sizes is anything made of these.
    vectors = None if shape is None else jnp.zeros(shape.shape, shape.dtype)
    return Package(run, task._replace(code_vectors=vectors), inputs, model)


def is_package(folder: Path) -> bool:
    """Return whether a folder holds a package, and not a run directory."""
    return (folder / WEIGHTS).exists()


def load_decoder(run: DecoderRun, store: TokenStore, folder: Path) -> nnx.Module:
    """Return the trained decoder of a run directory or of a package, for the clips of a store.

    Raises:
        GenlabError: if there is none, or a package is damaged or of other conditions than `store`.
    """
    if not is_package(folder):
        return load_trained(lambda key: run.build_for(store, key), folder)
    _read_facts(folder)
    return cast(nnx.Module, _read_model(run, run.task(store), folder))


def describe(run: DecoderRun, inputs: Inputs, facts: Mapping[str, JsonValue], reads: str) -> str:
    """Return the README of a package."""
    decoder, data = run.arm.decoder, run.data
    # Models of somebody's recordings carry the duties of those recordings: the page says so.
    speaker = "told" if run.condition.speaker else "not told"
    return f"""---
library_name: genlab
tags: [audio, {decoder.kind}]
---
# {run.name}: a `{decoder.kind}` decoder

{facts["num_parameters"]} parameters, {facts["step"]} updates of {run.batch_size} clips, seed
{run.seed}. It reads {reads} of the codec `{data.codec}` (fingerprint `{inputs["codec"]}`).
Corpus: kind `{data.corpus.kind}`, `{inputs["corpus"]}`; its licence holds for the model too.
Conditions: content `{run.condition.content}`; speaker {speaker}, of {len(inputs["speakers"])}.

```python
from genlab.packages.package import load_package

package = load_package("PATH")
drawn = package.sample(package.task.no_cond(1), seed=0)
waves = package.decode(drawn)
```

`genlab sample PATH` draws the held-out clips of its corpus, where that is at hand. The folder is
checked when it is read: a file that was changed is refused.
"""


def _tree_of(params: PyTree, rest: PyTree) -> dict[str, PyTree]:
    return {"params": params, "rest": rest}


def _read_model(run: DecoderRun, task: Task, folder: Path) -> Decoder:
    """Return the decoder of `task` with the parameters of a package."""
    check_view(f"arm {run.name!r}", run.arm.decoder, task)

    def build(key: Key[Array, ""], vectors: Float[Array, "k v d"] | None) -> tuple:
        return split_model(run.arm.decoder.build(task._replace(code_vectors=vectors), key=key))

    # Shapes alone: what the file holds takes the place of every initial value, also of those that
    # models of codes take from the codec's entries. No size is believed before it was compared.
    graph, *abstract = jax.eval_shape(build, jax.random.key(0), _entries_of(task.spec))
    tree = load_weights(folder / WEIGHTS, _tree_of(*abstract))
    return nnx.merge(graph, *jax.tree.map(jnp.asarray, tree).values())


def _entries_of(spec: TokenSpec) -> jax.ShapeDtypeStruct | None:
    """Return the shape of the codec's entries; a space of codes or latents alone has none."""
    shape = (spec.codebooks, spec.entries, spec.latent_channels)
    has_both = spec.codebooks and spec.latent_channels
    return jax.ShapeDtypeStruct(shape, jnp.float32) if has_both else None


def _task_of(run: DecoderRun, facts: PackageFacts, inputs: Inputs, folder: Path) -> Task:
    """Return the task that a package was trained for, less the entries of its codec."""
    try:
        spec = TokenSpec.from_dict(facts["spec"])
        vocab = CondVocab.from_dict(facts["vocab"])
    except GenlabError as error:
        raise GenlabError(f"{folder / FACTS}: {error}; {FIX}") from None
    # What no weight has the shape of is compared with the files that also say it.
    channels = len(inputs["latent_mean"])
    for name, found, expected, said_by in (
        ("num_frames", facts["num_frames"], run.data.num_frames, CONFIG),
        ("step", facts["step"], run.steps, CONFIG),
        ("latent_channels", spec.latent_channels, channels, INPUTS_NAME),
    ):
        if found != expected:
            raise GenlabError(
                f"{folder / FACTS}: {name}={found}, but {said_by} says {expected}; {FIX}"
            )
    return Task(
        spec,
        vocab,
        run.backbone,
        run.condition,
        num_frames=facts["num_frames"],
        num_symbols=facts["num_symbols"],
    )


def _read_facts(folder: Path) -> PackageFacts:
    """Return `model.json`, after making sure that the files beside it are those it was written
    with.
    """
    if not folder.is_dir():
        raise GenlabError(f"{folder}: no such folder; expected one that `genlab export` wrote")
    content = json.dumps(load_metadata(folder / WEIGHTS)).encode()
    facts = parse_stored(content, PackageFacts, path=folder / FACTS, fix=FIX)
    if facts["format"] != FORMAT:
        raise GenlabError(
            f"{folder / FACTS}: format {facts['format']}, and this version reads {FORMAT}; "
            "update genlab"
        )
    for name in (CONFIG, INPUTS_NAME):
        path = folder / name
        if not path.is_file():
            raise GenlabError(f"{path}: no such file; {FIX}")
        if _digest(path) != facts["files"].get(name):
            raise GenlabError(f"{path}: SHA-256 differs from the one in {FACTS}; {FIX}")
    return facts


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
