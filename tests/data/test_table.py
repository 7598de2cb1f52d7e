"""Tables as people write them: no row lost, no field changed, what cannot be used is named."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genlab.config import GenlabError
from genlab.data.corpus import Folder, build_corpus
from genlab.data.folder import ImportReport
from genlab.data.listing import SourceRow
from genlab.data.table import list_table


def read(tmp_path, content, name="m.csv"):
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (tmp_path / name).write_bytes(data)
    return list_table(tmp_path, name)


def values(listing):
    return [(row.path, row.text, row.speaker) for row in listing.rows]


def reasons(listing):
    return {item.path: item.reason for item in listing.skipped}


PLAIN = "path,text,speaker\na.wav,one,amy\nb.wav,two,bob\n"
WANTED = [("a.wav", "one", "amy"), ("b.wav", "two", "bob")]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", ", "),
        PLAIN.replace("path,text", "PATH,Text"),
        "\n\n" + PLAIN.replace("\n", "\n\n"),
        '"path","text","speaker"\n"a.wav","one","amy"\n"b.wav","two","bob"\n',
        "file_name,transcription,speaker_id\na.wav,one,amy\nb.wav,two,bob\n",
        gzip.compress(PLAIN.encode(), mtime=0),
    ],
)
def test_one_table_written_in_many_ways(tmp_path, content):
    listing = read(tmp_path, content)
    assert values(listing) == WANTED and not listing.skipped
    assert all(row.labels == {} for row in listing.rows)


def test_tables_of_other_programs(tmp_path):
    """Columns as in Hugging Face's audiofolder, NeMo, audiocraft, Common Voice and pandas."""
    nemo = '{"audio_filepath": "a.wav", "text": "one", "offset": 1.5, "duration": 2}\n'
    assert read(tmp_path, nemo, "train_manifest.json").rows == [
        SourceRow("a.wav", "a.wav@1.5+2", "one", tmp_path.name, offset_s=1.5, duration_s=2.0)
    ]
    audiocraft = '{"path": "b/a.wav", "duration": 2.5, "sample_rate": 16000, "amplitude": null}\n'
    listing = read(tmp_path, gzip.compress(audiocraft.encode()), "data.jsonl.gz")
    assert listing.rows == [
        SourceRow("b/a.wav", "b/a.wav", speaker="b", labels={"sample_rate": 16000}, duration_s=2.5)
    ]
    huggingface = '{"file_name": "a.wav", "transcription": "one", "license": "CC0"}\n'
    listing = read(tmp_path, huggingface, "metadata.jsonl")
    assert listing.rows == [SourceRow("a.wav", "a.wav", "one", tmp_path.name, licence="CC0")]
    assert "column transcription read as text" in listing.notes
    voice = "client_id\tpath\tsentence\n77\ta.mp3\tone\n"
    assert values(read(tmp_path, voice, "validated.tsv")) == [("a.mp3", "one", "77")]
    listing = read(tmp_path, ",path,text,speaker\n0,a.wav,one,amy\n1,b.wav,two,bob\n")
    assert values(listing) == WANTED and listing.notes == ["column 1 has no name: not read"]
    listing = read(tmp_path, '[{"path": "a.wav", "text": "one",\n "speaker": "amy"}, 3]', "l.json")
    assert values(listing) == WANTED[:1] and reasons(listing) == {
        "l.json line 2": "not a JSON object"
    }


def test_a_known_name_wins_over_its_alias(tmp_path):
    [row] = read(tmp_path, "path,text,sentence\na.wav,one,3\n").rows
    assert row.text == "one" and row.labels == {"sentence": "3"}


def test_split_names(tmp_path):
    names = "Training,train,VALIDATION,Dev,val,development,testing,eval,Test,extra".split(",")
    rows = "".join(f"{number}.wav,{name}\n" for number, name in enumerate(names))
    listing = read(tmp_path, "path,split\n" + rows)
    assert [row.split for row in listing.rows] == [
        *["train"] * 2,
        *["valid"] * 4,
        *["test"] * 3,
        "extra",
    ]
    assert any("split 'extra' is neither" in note for note in listing.notes)


def test_numbers_are_names_and_texts(tmp_path):
    rows = [{"path": f"{n}.wav", "text": n, "speaker": n} for n in (0, 1, 1.5)]
    rows += [{"path": "3.wav", "speaker": None, "text": None}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    listing = read(tmp_path, lines, "m.jsonl")
    assert values(listing) == [
        ("0.wav", "0", "0"),
        ("1.wav", "1", "1"),
        ("1.5.wav", "1.5", "1.5"),
        ("3.wav", "", tmp_path.name),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"path": "x.wav", "speaker": true}', "field speaker is true"),
        ('{"path": "x.wav", "text": ["a"]}', "field text is"),
        ('{"path": "x.wav", "text": NaN}', "field text is nan"),
        ('{"path": "x.wav", "mood": Infinity}', "field mood is inf"),
        ('{"path": "x.wav", "mood": 1e400}', "field mood is inf"),
        ('{"path": "x.wav", "mood": %s}' % ("9" * 200), "field mood is larger than"),
        ('{"path": "x.wav", "mood": %s}' % ("9" * 5000), "thousands of digits"),
        ('{"path": "x.wav", "mood": [NaN]}', "not finite"),
        (f'{{"path": "x.wav", "mood": {"[" * 50}1{"]" * 50}}}', "nested more than 8"),
        ('{"path": "x.wav", "path": "y.wav"}', "field path occurs twice"),
        ('{"path": "x.wav", "Path": "y.wav"}', "column 'path' occurs twice"),
        ('{"file_name": "x.wav", "filepath": "y.wav"}', "both hold the path"),
        ('{"path": "x.wav", "text": "\\ud800"}', "half of a surrogate pair"),
        ('{"path": "x\\u0000.wav"}', "NUL"),
        ('{"path": "x.wav", "text": "\udce9"}', "not UTF-8"),
        ('{"path": "x.wav", "offset": -1}', "field offset is '-1', expected seconds"),
        ('{"path": "x.wav", "offset": "1:30"}', "field offset is '1:30', expected seconds"),
        ('{"path": "x.wav", "duration": 0}', "field duration is 0"),
        ('{"path": "x.wav", "duration": false}', "field duration is 'False'"),
        ('{"path": "x.wav", "split": "a b"}', "split 'a b' of 'x.wav'"),
        ('{"path": "  "}', "field path is empty"),
        ('{"text": "no path"}', "field path is empty"),
        ('{"path": "x.wav"', "not JSON"),
        ('{"path": "x.wav", "text": "%s"}' % ("x" * 200_000), "200000 characters"),
        ("[" * 100_000, "nested too deep"),
        ("null", "not a JSON object"),
    ],
)
def test_a_bad_line_costs_itself_only(tmp_path, row, reason):
    good = ['{"path": "a.wav", "text": "a\u2028b"}', '{"path": "b.wav", "text": "c\u0085d"}']
    text = "\n".join([good[0], row, good[1]])
    data = text.encode("utf-8", "surrogateescape")
    listing = read(tmp_path, data, "m.jsonl")
    assert [row.text for row in listing.rows] == ["a\u2028b", "c\u0085d"]
    [(place, found)] = reasons(listing).items()
    assert place == "m.jsonl line 2" and reason in found and len(found) < 300 and "\n" not in found


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x.wav,hello", "2 fields, the header has 3"),
        ("x.wav,hello, you,amy", "more fields than the header"),
        ('x.wav,"open,amy', "a quote is not closed"),
        ('x.wav,"said" she,amy', "a quote is not closed or not doubled"),
        ("x\0.wav,hello,amy", "NUL"),
        (f"x.wav,{'x' * 140_000},amy", "field larger than field limit"),
        ("x.wav,caf\udce9,amy", "field text is not UTF-8"),
        (",hello,amy", "field path is empty"),
        (",,", "field path is empty"),
    ],
)
@pytest.mark.parametrize("later", [1, 3000])
def test_a_bad_row_costs_itself_only(tmp_path, row, reason, later):
    rows = [f"b{number}.wav,two,bob" for number in range(later)]
    text = "\n".join(["path,text,speaker", "a.wav,one,amy", row, *rows])
    listing = read(tmp_path, text.encode("utf-8", "surrogateescape"))
    assert [item.path for item in listing.rows] == [
        "a.wav",
        *(f"b{number}.wav" for number in range(later)),
    ]
    [(place, found)] = reasons(listing).items()
    assert place == "m.csv line 3" and reason in found


def test_a_quote_that_a_later_one_closes_swallows_no_row(tmp_path):
    text = 'path,text,speaker\na.wav,"open,amy\nb.wav,two,bob\nc.wav,he said ",amy\n'
    listing = read(tmp_path, text)
    assert values(listing) == [("b.wav", "two", "bob"), ("c.wav", 'he said "', "amy")]
    assert list(reasons(listing)) == ["m.csv line 2"]
    listing = read(tmp_path, 'path,text,speaker\na.wav,"one, and\na ""second"" line",amy\n')
    assert values(listing) == [("a.wav", 'one, and\na "second" line', "amy")]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", "path,text,Text\n", "column 'text' occurs twice"),
        ("a.csv", "filepath,audio_file,text\n", "rename one to 'path'"),
        ("a.csv", "file,text\n", "no column 'path', found file, text; expected one of path, file_"),
        ("a.csv", "", "no column 'path', found nothing"),
        ("a.csv", PLAIN.encode("utf-16-le"), "not UTF-8"),
        ("a.csv", PLAIN.encode("utf-16")[:-1], "damaged UTF-16"),
        ("a.csv.gz", gzip.compress(PLAIN.encode() * 99, mtime=0)[:-9], "damaged gzip"),
        ("a.json", '[{"path": "a.wav"}', "not JSON"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, part):
    with pytest.raises(GenlabError, match="manifest: ") as caught:
        read(tmp_path, content, name)
    assert part in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [".", "", "pipe", "/dev/zero", "x" * 300, "a.wav/x", "none.csv"])
def test_what_is_no_table(tmp_path, name):
    (tmp_path / "a.wav").touch()
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    with pytest.raises(GenlabError, match="expected a CSV or JSONL file"):
        list_table(tmp_path, name)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.sampled_from([f"{number}.wav" for number in range(4)] + ["none.wav", ""])
SPLIT = st.sampled_from(["", "train", "Training", "validation", "TEST", "a b"])
SPLITS = {"": None, "train": "train", "Training": "train", "validation": "valid", "TEST": "test"}
ROWS = st.lists(st.tuples(NAME, TEXT, TEXT, SPLIT, TEXT), min_size=1, max_size=8)
HEADER = ("path", "text", "speaker", "split", "mood")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(4):
        wave = np.random.default_rng(number).normal(0, 0.1, 1_600)
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
    return folder


def check_against(recordings, name, expected, cache):
    """Hold the corpus of a table against the rows that another reader found in it."""
    try:
        manifest = build_corpus(Folder(path=str(recordings), manifest=name), cache)
    except GenlabError as error:
        usable = [row for row in expected if row["path"] in {f"{n}.wav" for n in range(4)}]
        usable = [row for row in usable if (row["split"] or "") in SPLITS]
        usable = [row for row in usable if "\0" not in "".join(map(str, row.values()))]
        texts = {row["split"]: None for row in usable}
        assert not usable or len(texts) > 1, error
        return
    report = ImportReport.load(manifest.root)
    assert len(expected) == len(manifest.clips) + len(report.skipped)
    for clip in manifest.clips:
        matches = [row for row in expected if row["path"] == clip.id]
        wanted = [
            (
                (row["text"] or "").strip(),
                (row["speaker"] or "").strip() or recordings.name,
                {"mood": row["mood"]} if row["mood"] else {},
            )
            for row in matches
            if SPLITS.get(row["split"] or "", "no") in {None, clip.split}
        ]
        assert (clip.text, clip.speaker, clip.labels) in wanted


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, delimiter=st.sampled_from(",;\t|"), end=st.sampled_from(["\n", "\r\n"]))
def test_every_row_of_a_csv_is_a_clip_or_reported(recordings, tmp_path, rows, delimiter, end):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([HEADER, *rows])
    (recordings / "m.csv").write_text(file.getvalue(), encoding="utf-8", newline="")
    with open(recordings / "m.csv", encoding="utf-8", newline="") as source:
        expected = list(csv.DictReader(source, delimiter=delimiter))
    check_against(recordings, "m.csv", expected, tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, is_ascii=st.booleans())
def test_every_line_of_json_is_a_clip_or_reported(recordings, tmp_path, rows, is_ascii):
    lines = [json.dumps(dict(zip(HEADER, row)), ensure_ascii=is_ascii) for row in rows]
    (recordings / "m.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    content = (recordings / "m.jsonl").read_bytes().decode()
    expected = [json.loads(line) for line in content.split("\n")]
    check_against(recordings, "m.jsonl", expected, tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.text(st.sampled_from('a.wv,;\t"\n\r \0\ufeff{}[]:0'), max_size=60))
def test_no_table_ends_in_a_traceback(tmp_path, content):
    for name, start in (("m.csv", "path,text\n"), ("m.jsonl", ""), ("m.json", "")):
        try:
            listing = read(tmp_path, start + content, name)
        except GenlabError:
            continue
        assert all(row.path.strip() for row in listing.rows)
        assert all(item.reason and item.path.startswith(name) for item in listing.skipped)


@pytest.mark.parametrize(("size", "is_read"), [(2**20, True), (2**25, False)])
def test_a_small_file_that_unzips_to_a_large_one_is_not_held_in_memory(tmp_path, size, is_read):
    text = b"path,text\na.wav,hi\n" + b"\n" * size
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(text, mtime=0))
    if is_read:
        assert [row.path for row in list_table(tmp_path, "m.csv.gz").rows] == ["a.wav"]
        return
    with pytest.raises(GenlabError, match="more than 16777216 bytes when unzipped"):
        list_table(tmp_path, "m.csv.gz")
