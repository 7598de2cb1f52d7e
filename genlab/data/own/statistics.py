"""What is in somebody's tokens: lengths, use of the codes, copies, and a picture.

In: a directory of tokens, whose every row is read and checked. Out: `TokenReport`, in lines for the
terminal and as a PNG. The entropies are those of counts (one code by itself), so they say at once
whether a codebook is hardly used; what a model needs is less.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from genlab.data.listing import count_of, shorten
from genlab.data.manifest import text_key
from genlab.data.own.content import digest_codes
from genlab.data.own.labels import describe_labels
from genlab.data.own.source import TokenFiles
from genlab.data.own.spec import OwnSpec
from genlab.data.shards import Progress
from genlab.data.text import has_symbols

COLUMNS = 512  # of the picture; entries and frames beyond are folded or left out
ROW_HEIGHT = 12  # of a codebook in the picture
MAKER = "genlab tokens"  # in every picture, which the next one may then replace
HEAD_BYTES = 200


class TokenReport(NamedTuple):
    """What was found; `counts` say how often each entry occurs."""

    spec: OwnSpec
    frames: dict[str, list[int]]
    """Of every clip, by split."""
    texts: dict[str, set[str]]
    speakers: set[str]
    counts: Int[np.ndarray, "k v"]
    copies: list[tuple[str, str]]
    """Clips with the codes of an earlier one, after that one."""
    example: Int[np.ndarray, "t k"]
    columns: tuple[str, ...] = ()
    """A line for the code vectors, if there are any, and one for each column of labels."""

    def lines(self) -> list[str]:
        """Return it in words."""
        spec, every = self.spec, [length for split in self.frames.values() for length in split]
        rate = spec.sample_rate_hz / spec.hop_samples
        lines = [
            f"{count_of(len(every), 'clip')}, {sum(every) / rate / 60:.1f} min, "
            f"{count_of(len(self.speakers), 'speaker')}, {rate:g} frames/s, {spec.codebooks} "
            f"codebooks of {spec.entries} entries"
        ]
        for split, lengths in sorted(self.frames.items()):
            said = count_of(len(self.texts[split]), "text") if self.texts[split] else "no texts"
            lines.append(
                f"  {split}: {count_of(len(lengths), 'clip')}, {sum(lengths) / rate / 60:.1f} min, "
                f"{said}"
            )
        # A clip longer than an example is cut, and no prompt: lengths decide data.num_frames.
        least, middle, most = np.percentile(every, [0, 50, 100])
        span = f"{least:g} to {most:g}, half have at most {middle:g}"
        lines.append(f"  frames of a clip: {span if least < most else f'{least:g} in all'}")
        for level, (used, bits) in enumerate(zip((self.counts > 0).sum(axis=1), self.entropies())):
            lines.append(
                f"  codebook {level}: {used} of {spec.entries} entries occur, {bits:.2f} bits by "
                f"counts of {np.log2(spec.entries):.2f}"
            )
        return [*lines, *self.columns, *self._notes()]

    def entropies(self) -> Float[np.ndarray, "k"]:
        """Return the bits of one code of each codebook, by its counts."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)

    def _notes(self) -> list[str]:
        notes = []
        if self.copies:
            first, copy = map(shorten, self.copies[0])
            notes.append(
                f"  note: {count_of(len(self.copies), 'clip')} with the codes of an earlier one, "
                f"for example {copy} those of {first}"
            )
        learnt = self.texts.get("train", set())
        for split in sorted({*self.texts} - {"train"}):
            if shared := len(self.texts[split] & learnt):
                notes.append(
                    f"  note: {shared} of {len(self.texts[split])} texts of {split} occur in train "
                    "too: they test known texts"
                )
        if missing := [split for split in ("train", "valid", "test") if split not in self.frames]:
            notes.append(
                f"  note: no clips in split {', '.join(missing)}, which a comparison needs"
            )
        return notes

    def picture(self) -> bytes:
        """Return a PNG: above how often each entry of each codebook occurs, below the codes of one
        clip, codebooks down.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        maker = PngInfo()
        maker.add_text("Software", MAKER)
        use = np.log1p(_fold(self.counts))
        use /= max(float(use.max()), 1.0)
        codes = self.example[:COLUMNS].T / max(1, self.spec.entries - 1)
        parts = [_stretch(use), np.full((ROW_HEIGHT, COLUMNS), 255, np.uint8), _stretch(codes)]
        file = io.BytesIO()
        Image.fromarray(np.concatenate(parts)).save(file, "PNG", pnginfo=maker)
        return file.getvalue()


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture that `TokenReport.picture` made."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(b"\x89PNG") and MAKER.encode() in head


def inspect_tokens(files: TokenFiles, progress: Progress | None = None) -> TokenReport:
    """Read every clip, and the code vectors if there are any, and return what is there.

    Raises:
        GenlabError: naming the file and the row that is wrong.
    """
    vectors = files.code_vectors  # first: it is read in no time, and clips may take hours
    spec, content = files.spec, files.content()
    frames: dict[str, list[int]] = {}
    texts: dict[str, set[str]] = {}
    counts = np.zeros((spec.codebooks, spec.entries), np.int64)
    seen: dict[bytes, str] = {}
    # Its tables are filled clip by clip, so memory holds no codes but the example.
    found = TokenReport(spec, frames, texts, set(), counts, [], np.zeros((0, 0), np.int32))
    for split, clip in files.checked(content, "check", progress):
        frames.setdefault(split, []).append(len(clip.codes))
        texts.setdefault(split, set())
        if has_symbols(clip.text):
            texts[split].add(text_key(clip))
        found.speakers.add(clip.speaker)
        for level, codes in enumerate(clip.codes.T):
            counts[level] += np.bincount(codes, minlength=spec.entries)
        first = seen.setdefault(digest_codes(clip.codes), clip.id)
        if first != clip.id:
            found.copies.append((first, clip.id))
        if not len(found.example):
            found = found._replace(example=clip.codes)
    columns = describe_labels(content.labels.values(), content.num_clips)
    if vectors is not None:
        channels = count_of(vectors.shape[2], "channel")
        columns = [f"  code vectors: every entry adds {channels} to the latents", *columns]
    return found._replace(columns=tuple(columns))


def _fold(counts: Int[np.ndarray, "k v"]) -> Float[np.ndarray, "k c"]:
    """Add up neighbouring entries until they fit the picture."""
    each = -(-counts.shape[1] // COLUMNS)
    padding = -counts.shape[1] % each
    padded = np.pad(counts, [(0, 0), (0, padding)])
    return padded.reshape(len(counts), -1, each).sum(axis=2).astype(np.float64)


def _stretch(values: Float[np.ndarray, "k c"]) -> UInt8[np.ndarray, "h w"]:
    """Return values of 0 to 1 as grey, from white to black, as wide as the picture."""
    columns = np.arange(COLUMNS) * values.shape[1] // COLUMNS
    grey = (255 * (1 - np.clip(values, 0, 1))).astype(np.uint8)
    return np.repeat(grey[:, columns], ROW_HEIGHT, axis=0)
