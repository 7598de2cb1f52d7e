"""Tables of texts and speakers: rows in = clips used + rows reported, and every field of a used
clip is as written.

A table is drawn as rows of fields and then written in one of many dialects, so what an independent
reader would read is known without reading it. Half of them are damaged: single rows (NUL, huge
fields, deep JSON, missing files), or the text of the whole table at random, of which only the
promises that any input has can be checked.
"""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from .contract import Trial
from .damage import NUMBERS, TEXTS, damage_text, nested
from .world import CLIPS, World

WORDS = (
    "yes",
    "no",
    "lift",
    "Hello, world",
    'say "go"',
    "tea; coffee",
    "tab\there",
    "1",
    "0",
    "naïve",
    "日本",
    "it's",
)
SPLITS = (
    "",
    "train",
    "valid",
    "test",
    "dev",
    "val",
    "validation",
    "eval",
    "Train",
    "TEST",
    "training",
    "my_split",
)
MEANINGS = {
    "dev": "valid",
    "val": "valid",
    "validation": "valid",
    "eval": "test",
    "training": "train",
}
PATH_NAMES = ("path", "path", "path", "file_name", "audio_filepath", "filename")
TEXT_NAMES = ("text", "text", "text", "transcription", "transcript", "sentence")


class Row(NamedTuple):
    """What a row says, as a reader without faults would read it; None is a field that the row does
    not have.
    """

    path: str
    text: str
    speaker: str
    split: str


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return an import of a folder through a drawn table."""
    from genlab.data.corpus import build_corpus
    from genlab.data.folder import Folder

    audio = _copy_audio(rng, world, place / "audio")
    rows = [_draw_row(rng, name) for name in audio for _ in range(rng.choice((1, 1, 1, 1, 2)))]
    dialect = rng.choice(("csv", "csv", "tsv", "semicolon", "jsonl", "jsonl", "ndjson"))
    text = _write_jsonl(rng, rows) if "js" in dialect else _write_csv(rng, rows, dialect)
    suffix = {"tsv": rng.choice(("csv", "tsv", "txt")), "semicolon": "csv"}.get(dialect, dialect)
    damage = rng.choice(("none", "none", "none", "row", "row", "text", "text", "bytes", "config"))
    bad_rows = 0
    if damage == "row":
        text, bad_rows = _add_bad_row(rng, text, "js" in dialect)
    elif damage == "text":
        text = damage_text(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    if damage == "bytes":
        position = rng.randrange(len(data))
        data = data[:position] + rng.randbytes(rng.choice((1, 4, 40))) + data[position + 1 :]
    table = place / "audio" / f"m.{suffix}"
    table.write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + data)
    fields: dict[str, Any] = {"path": str(place / "audio"), "manifest": table.name}
    if damage == "config":
        fields |= rng.choice(_settings(rng))
    fields["shared_texts"] = fields.get("shared_texts", True)

    def act() -> Any:
        return build_corpus(Folder.from_dict({"kind": "folder", **fields}), place / "cache")

    def judge(manifest: Any) -> str | None:
        if damage == "config":
            return _check_sane(manifest)
        is_known = damage in ("none", "row")
        return _check_sane(manifest) or (
            _check_rows(manifest, rows, bad_rows) if is_known else None
        )

    is_good = damage in ("none", "row") and any(
        row.split == "" or row.split.lower() != "" for row in rows
    )
    what = f"{suffix} table, {len(rows)} rows, damage {damage}: {data[:160]!r} {fields!r:.200}"
    names = ("manifest", table.name, str(place / "audio"), *fields)
    return Trial(what, act, names, judge, must_accept=is_good)


def _copy_audio(rng: random.Random, world: World, folder: Path) -> list[str]:
    folder.mkdir()
    names = []
    for number in rng.sample(range(CLIPS), rng.choice((3, 4, 5))):
        name = rng.choice(("", "", "", "sub/", "a b/", "ü/")) + f"c{number:02}.wav"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(world.audio / f"c{number:02}.wav")
        names.append(name)
    return names


def _draw_row(rng: random.Random, name: str) -> Row:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4)))
    speaker = rng.choice(
        ("ann", "bob", "", "0", "7", "Ann", "a, b", "false", "none", "null", "ünal")
    )
    return Row(
        name, text, speaker, rng.choice(SPLITS[:6]) if rng.random() < 0.8 else rng.choice(SPLITS)
    )


def _names(rng: random.Random) -> list[str]:
    return [rng.choice(PATH_NAMES), rng.choice(TEXT_NAMES), "speaker", "split"]


def _write_csv(rng: random.Random, rows: list[Row], dialect: str) -> str:
    """Write the rows by hand, as spreadsheets do: quotes where they are needed, or everywhere."""
    delimiter = {"csv": ",", "tsv": "\t", "semicolon": ";"}[dialect]
    end = rng.choice(("\n", "\n", "\r\n"))
    quotes_all, blank = (
        rng.random() < 0.2,
        rng.choice(("", "", "", " ")) if dialect != "tsv" else "",
    )
    order = rng.sample(range(4), 4)
    extra = rng.random() < 0.3

    def field(text: str) -> str:
        needs = (
            quotes_all
            or any(c in text for c in (delimiter, '"', "\n", "\r"))
            or text != text.strip()
        )
        return '"' + text.replace('"', '""') + '"' if needs and text else text

    header = _names(rng)
    lines = [[header[column] for column in order] + (["note"] if extra else [])]
    lines += [[row[column] for column in order] + (["x"] if extra else []) for row in rows]
    text = end.join((delimiter + blank).join(field(cell) for cell in line) for line in lines)
    return text + rng.choice((end, "", end + end))


def _write_jsonl(rng: random.Random, rows: list[Row]) -> str:
    header, lines = _names(rng), []
    is_ascii = rng.random() < 0.5
    for row in rows:
        values: dict[str, Any] = dict(zip(header, row))
        if row.speaker in ("0", "7") and rng.random() < 0.7:
            values["speaker"] = int(row.speaker)
        if rng.random() < 0.3:
            values["note"] = rng.choice((1, "x", [1], None, {"a": 1}))
        lines.append(json.dumps(values, ensure_ascii=is_ascii))
    return "\n".join(lines) + rng.choice(("\n", "", "\n\n"))


def _add_bad_row(rng: random.Random, text: str, is_json: bool) -> tuple[str, int]:
    """Return the table with one row more that cannot be used, at a random place, and how many rows
    came.
    """
    lines = text.rstrip("\r\n").split("\n")
    missing = rng.choice(
        ("none.wav", "x" * 300 + ".wav", "a\0b.wav", "../c00.wav/x", "/none/x.wav", "con.wav\u202e")
    )
    if is_json:
        key = next((name for name in PATH_NAMES if f'"{name}"' in lines[0]), "path")
        bad = rng.choice(
            (
                json.dumps({key: missing, "text": "z"}),
                "[" * 100_000,
                "{",
                "7",
                "null",
                '{"' + key + '":"\\ud800.wav"}',
                '{"' + key + '":"none.wav","n":' + "1" * 5000 + "}",
                json.dumps({key: rng.choice(([], {}, 7, None, ""))}),
                json.dumps({key: "none.wav", "text": nested(500, rng)}),
            )
        )
        first = 0
    else:
        if any('"' in line for line in lines) or len(lines) < 2:
            return text, 0  # a row must not land within a quoted field
        delimiter = max(",;\t", key=lines[0].count)
        columns = [name.strip() for name in lines[0].rstrip("\r").split(delimiter)]
        place = next(number for number, name in enumerate(columns) if name in PATH_NAMES)
        cells = ["z"] * len(columns)
        cells[place] = missing
        if "split" in columns:
            cells[columns.index("split")] = rng.choice(("", "train", "!?"))
        if rng.random() < 0.2:
            cells.append("one more")
        bad, first = delimiter.join(cells), 1
    position = rng.randrange(first, len(lines) + 1) if len(lines) >= first else first
    return "\n".join([*lines[:position], bad, *lines[position:]]) + "\n", 1


def _settings(rng: random.Random) -> list[dict[str, Any]]:
    odd = rng.choice((*TEXTS, *NUMBERS))
    return [
        {"manifest": rng.choice((".", "..", "c00.wav", "none.csv", "m.csv/x", "", *TEXTS))},
        {"path": rng.choice(("", ".", "/none", *TEXTS))},
        {"valid_fraction": odd},
        {"test_fraction": odd},
        {"max_clip_s": odd},
        {"seed": odd},
        {"held_out_speakers": [odd]},
        {"licence": odd},
        {"strict": odd},
        {"pair_fraction": odd},
        {"max_clip_s": 0.3},
        {"strict": True},
        {"held_out_speakers": ["ann"]},
        {"two_sided": True},
        {"shared_texts": False},
    ]


def _check_sane(manifest: Any) -> str | None:
    for clip in manifest.clips:
        if not (manifest.root / clip.path).resolve().is_relative_to(manifest.root.resolve()):
            return f"clip {clip.id!r}: its audio lies outside the corpus, at {clip.path!r}"
        if (
            len(manifest.audio(clip)) != clip.num_samples
            or not clip.split
            or not clip.id.isprintable()
        ):
            return f"clip {clip.id!r}: {clip.num_samples} samples, split {clip.split!r}"
        if json.loads(json.dumps(clip.labels)) != clip.labels and "NaN" not in json.dumps(
            clip.labels
        ):
            return f"clip {clip.id!r}: labels {clip.labels!r}"
    return None


def _check_rows(manifest: Any, rows: list[Row], bad_rows: int) -> str | None:
    from genlab.data.folder import ImportReport

    report = ImportReport.load(manifest.root)
    used, skipped = len(manifest.clips), len(report.skipped)
    if used + skipped != len(rows) + bad_rows:
        return (
            f"{len(rows) + bad_rows} rows, but {used} clips used and {skipped} reported: "
            f"{report.skipped!r:.300}"
        )
    by_path: dict[str, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    for clip in manifest.clips:
        candidates = by_path.get(clip.id)
        if candidates is None:
            return f"clip {clip.id!r}: no row has this path"
        row = candidates[0]
        speaker = row.speaker.strip() or Path(row.path).parent.name or "audio"
        split = MEANINGS.get(row.split.lower(), row.split.lower())
        found = (clip.text, clip.speaker, clip.split if split else "")
        if found != (row.text.strip(), speaker, split):
            return (
                f"clip {clip.id!r}: {found}, but the row says {(row.text.strip(), speaker, split)}"
            )
    return None
