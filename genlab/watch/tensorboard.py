"""What a run shows in TensorBoard, and the only file that knows tag names.

In: scalars, waves, pictures, text. Out: one event file per attempt, written with TensorBoard's own
protocol buffers (no TensorFlow, no torch). Every arm uses the same tags, so TensorBoard lays the
arms of a comparison side by side. Two exceptions are deliberate: a training loss carries its family
and unit, because losses of different families do not belong on one chart, and audio is stored as
int16 exactly as sampled, because a gain per clip would hide differences.

    prompt03/samples, reference, codec_floor_codes, codec_floor_latents   audio
    prompt03/samples_mel, ...                                             pictures of them
    validation03/preview             audio by the share of training made; see report/previews.py
    train/...  valid/...  cost/...  score/...  interval/...               scalars

TensorBoard puts tags with one beginning together: so the tag begins with the prompt, and all its
players are side by side. Previews are of other prompts (of the validation split), so their tags
begin with another word.
"""

import json
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
from jaxtyping import Shaped
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_plugin_data
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from genlab.config import GenlabError
from genlab.data.audio import wav_bytes
from genlab.machine import hosts
from genlab.run.bounds import Floor
from genlab.statistics.bootstrap import Ends
from genlab.watch import BITS_CURVE, CURVE
from genlab.watch.follow import Scalars

SCALAR_GROUPS = ("train", "valid", "cost", "score", "interval")
Kind: TypeAlias = Literal["samples", "reference", Floor, "previews"]
AUDIO_KINDS: tuple[Kind, ...] = get_args(Kind)

ALWAYS_SHOWN = ("train_flops", "peak_lr")  # columns of the HParams table

_SHARED_METRICS = ("grad_norm", "learning_rate")  # mean the same in every family
_COST_METRICS = (
    "steps_per_s",
    "data_wait_fraction",
    "host_fraction",
    "device_fraction",
    "audio_s_per_s",
    "mfu",
)


def loss_tag(family: str, unit: str, group: Literal["train", "valid"] = "train") -> str:
    """Return the tag of a family's loss; it names family and unit, so no chart mixes two families
    or two losses.
    """
    return f"{group}/loss_{family}_{unit}"


def is_loss_tag(tag: str) -> bool:
    """Return whether a tag is one of `loss_tag`."""
    return "/loss_" in tag


def prompt_tag(kind: Kind, prompt: int) -> str:
    """Return the audio tag of prompt number `prompt`, the same in every arm and run."""
    if kind not in AUDIO_KINDS:
        raise GenlabError(f"audio kind {kind!r}: expected one of {', '.join(AUDIO_KINDS)}")
    return f"validation{prompt:02}/preview" if kind == "previews" else f"prompt{prompt:02}/{kind}"


def mel_tag(audio_tag: str) -> str:
    """Return the picture's tag that belongs to an audio tag."""
    return f"{audio_tag}_mel"


def interval_tags(score: str) -> tuple[str, str]:
    """Return the tags of the lower and the upper end of a score's interval."""
    return f"interval/{score}_low", f"interval/{score}_high"


def level_steps(step: int, last_step: int) -> tuple[int, int]:
    """Return the steps at which a score is written: from where the training ended to one right edge
    for all rows.

    A single point would have no band for its interval, and a chart that leaves out outliers would
    leave out the best row and the worst.

    Args:
        step: the last step of the row's training; 0 for what is not trained.
        last_step: the last of any row.
    """
    return step, round(1.1 * last_step) + 1


def tensorboard_command(log_dir: Path | str) -> str:
    """Return the shell command that opens `log_dir` and shows every clip rather than TensorBoard's
    default of ten.
    """
    return (
        f"tensorboard --logdir {shlex.quote(str(log_dir))} "
        "--samples_per_plugin=audio=100,images=100"
    )


class ClipNote(NamedTuple):
    """What a listener has to know about one clip. Real and resynthesised audio has no seed, calls
    or guidance.
    """

    text: str
    speaker: str
    seed: int | None = None
    network_calls: int | None = None
    guidance: float | None = None
    sampler: str = ""
    label: str = "speaker"
    """What the speaker is called in the domain."""

    def markdown(self) -> str:
        """Return the note as a markdown list, with the corpus text kept from acting as markup."""
        rows = {
            "text": self.text,
            self.label: self.speaker,
            "seed": self.seed,
            "network calls": self.network_calls,
            "guidance": self.guidance,
            "sampler": self.sampler or None,
        }
        return "\n".join(
            f"- **{name}**: {_plain(str(value))}"
            for name, value in rows.items()
            if value is not None
        )


class StepCost(NamedTuple):
    """What one training step holds: seconds of audio with padding, FLOPs by formula, and the peak
    of the devices.
    """

    audio_s: float
    flops: float
    peak_flops_per_s: float


class TrainingLog:
    """The `writer` of `train`: gives plain metric names the tags of a family.

    `loss` becomes `loss_tag(family, unit)`; what only this family measures is prefixed by it:
    `train/ar_accuracy`. With the cost of a step its speed is also given in seconds of audio per
    second and as a share of the peak (MFU).
    """

    def __init__(self, writer: Scalars, family: str, unit: str, cost: StepCost | None = None):
        self._writer = writer
        self._family = family
        self._unit = unit
        self._loss_tag = loss_tag(family, unit)
        self._cost = cost

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a training step."""
        speed = metrics.get("steps_per_s")
        cost = self._cost
        if speed is not None and cost is not None:
            mfu = speed * cost.flops / cost.peak_flops_per_s
            metrics = {**metrics, "audio_s_per_s": speed * cost.audio_s, "mfu": mfu}
        self._writer.scalars(step, {self._tag(name): value for name, value in metrics.items()})

    def _tag(self, name: str) -> str:
        if name == "loss":
            return self._loss_tag
        if name.startswith(CURVE):  # with the name of an average, if there are several
            tag = loss_tag(self._family, self._unit, "valid")
            return f"{tag}{name.removeprefix(CURVE)}"
        if name.startswith(BITS_CURVE):  # no loss: a chart of its own, in the unit of all families
            return f"valid/{name.removeprefix('valid_')}"
        if name in _COST_METRICS:
            return f"cost/{name}"
        return f"train/{name}" if name in _SHARED_METRICS else f"train/{self._family}_{name}"


class RunWriter:
    """Writes one attempt of one run. Close it, or use it as a context manager.

    Args:
        log_dir: the run's directory of event files; attempts share it.
        resume_step: the step that training resumes from (0: from the start). TensorBoard then
            forgets what earlier attempts wrote after that step, so a run killed and started again
            shows one curve. None adds to what is there and hides nothing.
        attempt: a suffix of the file name; a file of the same attempt is replaced, so what is
            written once per run can be written again. The default is unique: TensorBoard names
            files by the second, and two writers within one second would overwrite each other.
    """

    def __init__(
        self, log_dir: Path | str, *, resume_step: int | None = None, attempt: str | None = None
    ):
        # If there are several processes, only the leader is read.
        self.log_dir = Path(log_dir if hosts.is_leader() else tempfile.mkdtemp())
        # They go when the new file is whole: a process killed before that leaves them.
        self._replaced = list(self.log_dir.glob(f"*tfevents*.{attempt}")) if attempt else []
        is_continued = resume_step is not None and any(self.log_dir.glob("*tfevents*"))
        suffix = attempt or f"{os.getpid()}-{secrets.token_hex(4)}"
        self._writer = EventFileWriter(
            str(self.log_dir), flush_secs=10, filename_suffix=f".{suffix}"
        )
        self._is_open = True
        if is_continued:
            purge_step = resume_step + 1 if resume_step else 0
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers at a step; every tag begins with one of `SCALAR_GROUPS`.

        Raises:
            GenlabError: for a tag outside the groups, or a bare `train/loss` that would mix
                families.
        """
        for tag in values:
            group, _, name = tag.partition("/")
            if group not in SCALAR_GROUPS or not name:
                raise GenlabError(
                    f"tag {tag!r}: expected GROUP/NAME with a group of {', '.join(SCALAR_GROUPS)}"
                )
            if group in ("train", "valid") and name == "loss":
                raise GenlabError(
                    f"tag {tag!r}: the losses of different families share no chart; use loss_tag"
                )
        self._add(
            step,
            [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()],
        )

    def scores(self, step: int, scores: Mapping[str, Ends]) -> None:
        """Write the `scores` of one arm of results.json as `score/NAME`, with the ends of their
        intervals.

        A score without a value is left out; one without an interval ends where it is, because a
        chart of intervals refuses a point that has none.
        """
        values: dict[str, float] = {}
        for name, score in scores.items():
            if (value := score["value"]) is not None:
                ends = (
                    value if end is None else end for end in (score.get("low"), score.get("high"))
                )
                values |= {f"score/{name}": value, **dict(zip(interval_tags(name), ends))}
        self.scalars(step, values)

    def audio(
        self,
        tag: str,
        waves: Sequence[Shaped[np.ndarray, "..."]],
        sample_rate_hz: int,
        descriptions: Sequence[str],
        step: int = 0,
    ) -> None:
        """Write clips under one tag, shown as sample 1, 2, ...; see `prompt_tag`.

        Args:
            tag: where TensorBoard shows them.
            waves: mono or stereo clips, floats in [-1, 1] or int16; louder samples clip, nothing is
                normalised.
            sample_rate_hz: of every clip.
            descriptions: markdown, one per clip, see `ClipNote`. TensorBoard keeps the first one of
                a tag, so they must hold nothing that changes with the step.
            step: the training step the clips were sampled at.

        Raises:
            GenlabError: if a clip is not one mono or stereo wave, or has no description.
        """
        if len(descriptions) != len(waves):
            raise GenlabError(
                f"{tag}: {len(waves)} clips but {len(descriptions)} descriptions; expected one "
                "per clip"
            )
        notes = (
            descriptions[0]
            if len(waves) == 1
            else "\n\n".join(
                f"Sample {number}\n\n{note}" for number, note in enumerate(descriptions, start=1)
            )
        )
        # The second version of the audio event: the first loses its description on the way through
        # the server.
        pairs = [[wav_bytes(wave, sample_rate_hz), b""] for wave in waves]
        metadata = audio_metadata.create_summary_metadata(
            display_name=None, description=notes, encoding=audio_metadata.Encoding.Value("WAV")
        )
        self._add_strings(step, tag, np.array(pairs, dtype=object).reshape(len(pairs), 2), metadata)

    def picture(self, tag: str, png: bytes, step: int = 0, description: str = "") -> None:
        """Write one PNG picture, for example a log-mel picture under `mel_tag`."""
        # the header chunk
        width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
        metadata = image_metadata.create_summary_metadata(
            display_name=None, description=description
        )
        strings = np.array([str(width).encode(), str(height).encode(), png], dtype=object)
        self._add_strings(step, tag, strings, metadata)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write markdown text."""
        metadata = text_metadata.create_summary_metadata(display_name=None, description="")
        self._add_strings(step, tag, np.array([markdown.encode()], dtype=object), metadata)

    def hparams(self, values: Mapping[str, object], *, run_id: str) -> None:
        """Write the row of this run in the HParams table.

        It goes into the run's own event file: a writer of its own would show as a second run
        without metrics. The head of the table is not written here: TensorBoard takes the first head
        it finds for all arms; see `hparams_head`.

        Args:
            values: a config as nested JSON; it is flattened to dotted names.
            run_id: the name of the row, the same for every attempt.
        """
        row = hparams_summary.hparams_pb(dict(_flatten(values)), trial_id=run_id)
        self._write(0, Summary.FromString(row.SerializeToString()))

    def hparams_head(self, rows: Sequence[Mapping[str, object]], metrics: Sequence[str]) -> None:
        """Write the head of the HParams table, once for all arms.

        Without a head TensorBoard lists every scalar by its letters and shows the first five:
        costs, and no score.

        Args:
            rows: what `hparams` wrote, for every arm; shown are the first column, those in which
                arms differ, and `ALWAYS_SHOWN`.
            metrics: tags of scalars, the most important first.
        """
        flat = [dict(_flatten(row)) for row in rows]
        protos: Any = api_pb2
        columns = []
        for name in dict.fromkeys(name for row in flat for name in row):
            values = [row.get(name) for row in flat]
            if columns and len(set(values)) == 1:
                # What all arms share would only push the scores out of sight.
                if name not in ALWAYS_SHOWN:
                    continue
            is_number = all(isinstance(value, int | float) for value in values if value is not None)
            kind = protos.DATA_TYPE_FLOAT64 if is_number else protos.DATA_TYPE_STRING
            columns.append(protos.HParamInfo(name=name, type=kind, differs=len(set(values)) > 1))
        shown = [protos.MetricInfo(name=protos.MetricName(tag=tag)) for tag in metrics]
        head = protos.Experiment(
            hparam_infos=columns, metric_infos=shown, time_created_secs=time.time()
        )
        plugin_data = hparams_plugin_data.HParamsPluginData(experiment=head)  # pyright: ignore[reportAttributeAccessIssue]
        metadata = hparams_metadata.create_summary_metadata(plugin_data)
        value = Summary.Value(
            tag=hparams_metadata.EXPERIMENT_TAG,
            metadata=metadata,
            tensor=hparams_metadata.NULL_TENSOR,
        )
        self._add(0, [value])

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Write which tags the custom scalars page shows, one chart per tag and a series per run:
        arms side by side.

        Unless a person switches it off, a chart leaves out what lies outside the 5th to 95th
        percentile of its points: of one point per arm that is always the best arm and the worst
        one. So every chart is one of intervals, whose ends count too, and `level_steps` gives each
        row two points: then, of up to 10 rows, at most the ends of the widest intervals are cut. A
        quantity that has no interval is its own two ends.

        Args:
            charts: by category the tags, each with the title of its chart: the page says nothing
                else of unit and direction. A training loss is refused: its chart would hold one
                family alone.

        Raises:
            GenlabError: for a loss.
        """
        for tag in (tag for tags in charts.values() for tag in tags):
            if is_loss_tag(tag):
                raise GenlabError(
                    f"tag {tag!r}: the losses of different families share no chart; leave it out"
                )
        protos: Any = layout_pb2  # its classes are made when it is imported
        categories = [
            protos.Category(
                title=title,
                # The page puts each chart of intervals above the one before it: the last comes
                # first.
                chart=[
                    protos.Chart(title=name, margin=_margin(tag))
                    for tag, name in reversed(list(tags.items()))
                ],
            )
            for title, tags in charts.items()
        ]
        layout = protos.Layout(category=categories).SerializeToString()
        metadata = layout_metadata.create_summary_metadata()
        self._add_strings(
            0, layout_metadata.CONFIG_SUMMARY_TAG, np.array(layout, dtype=object), metadata
        )

    def flush(self) -> None:
        """Wait until everything written so far is in the file; call it with every checkpoint."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is pending and close the file; closing twice is allowed."""
        if self._is_open:
            self._is_open = False
            self._writer.close()
            for path in self._replaced:
                path.unlink(missing_ok=True)

    def _add(self, step: int, values: Sequence[Summary.Value]) -> None:
        self._write(int(step), Summary(value=values))

    def _write(self, step: int, summary: Summary) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _add_strings(
        self, step: int, tag: str, strings: np.ndarray, metadata: SummaryMetadata
    ) -> None:
        self._add(
            step, [Summary.Value(tag=tag, tensor=make_tensor_proto(strings), metadata=metadata)]
        )


def _margin(tag: str) -> Any:
    """Return the content of a chart that draws `tag` with its interval, if it is a score."""
    group, _, name = tag.partition("/")
    low, high = interval_tags(name) if group == "score" else (tag, tag)
    content: Any = layout_pb2.MarginChartContent  # pyright: ignore[reportAttributeAccessIssue]
    return content(series=[content.Series(value=tag, lower=low, upper=high)])


def _plain(text: str) -> str:
    """Escape `text` for markdown and HTML, and join its lines."""
    escaped = "".join(
        f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|" else letter
        for letter in " ".join(text.split())
    )
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _flatten(
    values: Mapping[str, object], prefix: str = ""
) -> list[tuple[str, bool | float | str]]:
    """Return dotted names with the value types the HParams table knows; anything else becomes JSON
    text.
    """
    flat: list[tuple[str, bool | float | str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.extend(_flatten(value, f"{prefix}{name}."))
        elif isinstance(value, bool | int | float | str):
            flat.append((prefix + name, value))
        elif value is not None:
            flat.append((prefix + name, json.dumps(value, default=str)))
    return flat
