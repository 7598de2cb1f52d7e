"""`genlab launch` and `genlab data encode --runner`: options that cannot be right, and a cloud that
answers anything.

`gcloud` is an executable that only pretends, the bucket a dict. Whatever they say, a slice that was
asked for is given back, and what lies beside the target stays as it is.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from cloud_toys import FakeTool

from .contract import Trial
from .damage import TEXTS
from .world import World

TPUS = ("h100-8", "v5litepod", "v5litepod-17", "v5e:4x4", "tpu7x-8", "", "-16", "v6e-0", "v6e-²")
ZONES = ("us-west4", "US-WEST4-A", "", "us west4-a", "us-west4-a\n", "../us-west4-a", "é")
BUCKETS = ("s3://lab", "gs://", "gs://lab/../x", "gs://lab/a b", "lab", "", "gs://L", "gs://x/y//z")
PRICES = ("0", "-1", "nan", "inf", "x", "", "1e999")
WHOLE = ("0", "-1", "1.5", "x", "", "nan", "9" * 5000)
GOOD = {"--tpu": "v5litepod-16", "--zone": "us-west4-a", "--bucket": "gs://lab/runs"}
WRONG = {
    "--tpu": TPUS,
    "--zone": ZONES,
    "--bucket": BUCKETS,
    "--price-per-chip-hour": PRICES,
    "--attempts": WHOLE,
    "--wait": WHOLE,
    "--executor": ("sky", "", "GCLOUD"),
    "--source": ("none", "", "/dev/null", "audio"),
}


def _error(text: str) -> dict[str, object]:
    return {"err": f"ERROR: (gcloud) {text}\n", "code": 1}


def _states(state: object) -> str:
    return json.dumps({"state": state})


NOT_FOUND = _error("NOT_FOUND: Resource was not found")
QUOTA = _error("RESOURCE_EXHAUSTED: Quota limit has been exceeded")
ACTIVE, SUSPENDED = _states({"state": "ACTIVE"}), _states({"state": "SUSPENDED"})
FAILED = _states({"state": "FAILED", "failedData": {"error": {"message": "no more capacity"}}})
REQUESTS = (
    *(NOT_FOUND, ACTIVE, ACTIVE, SUSPENDED, FAILED, QUOTA, "", "no JSON", "[]", "null", "{}"),
    *(_states({"state": "WAITING_FOR_RESOURCES"}), _states({"state": [1]}), _states("ACTIVE")),
    *(_states({"state": "FAILED", "failedData": [3]}), "[" * 2000, '{"state": NaN}'),
)
RUNNING, DONE = "genlab-job: running\n" * 4, "genlab-job: 0\n" * 4
LOOKS = (
    *(RUNNING, RUNNING, "genlab-job: gone\n" * 4, f"{RUNNING}genlab-job: gone\n", "", "?\x1b[2J"),
    *("genlab-job: -1\n", "genlab-job: 9" * 99, QUOTA),
)
CODES = ("genlab-job: 75\n" * 4, "genlab-job: 0\ngenlab-job: 75\n")
SOUND: dict[str, object] = {
    "config get-value project": "p\n",
    "accelerator-types list": "v5litepod-16 v6e-8\n",
    "queued-resources describe": [NOT_FOUND, NOT_FOUND, ACTIVE],
    "look.sh": ["genlab-job: gone\n" * 4, RUNNING, DONE],
    "tail": "step 12\nkilled\n",
    "": "",
}
LAST = (ACTIVE, ACTIVE, SUSPENDED)
NAMES = ("arms/ar/seed0/status.json", "a\nb", "../mine/thesis.txt", "/mine/thesis.txt", "é", "a//b")


def draw(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a command that would use a cloud."""
    kinds = ((_draw_wrong, 4), (_draw_errand, 4), (_draw_encode, 3))
    [kind] = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    return kind(rng, world, place)


class Bucket:
    """As much of a file system of Google's buckets as `genlab launch` uses."""

    def __init__(self, objects: dict[str, bytes], is_denied: bool = False):
        self.objects, self.is_denied = objects, is_denied

    def pipe_file(self, url: str, content: bytes, **more: object) -> None:
        """Write an object."""
        if self.is_denied:
            raise PermissionError("403: denied\nfor everybody")
        self.objects[url.removeprefix("gs://")] = content

    def cat_file(self, url: str) -> bytes:
        """Read an object."""
        try:
            return self.objects[url.removeprefix("gs://")]
        except KeyError:
            raise FileNotFoundError(url) from None

    def rm_file(self, url: str) -> None:
        """Remove an object."""
        del self.objects[url.removeprefix("gs://")]

    def find(self, url: str) -> list[str]:
        """Return the objects below a folder."""
        return [name for name in self.objects if name.startswith(url.removeprefix("gs://") + "/")]

    def ls(self, url: str, detail: bool) -> list[dict[str, str]]:
        """Return what lies in a folder."""
        start = url.removeprefix("gs://") + "/"
        parts = [name.removeprefix(start).partition("/") for name in self.find(url)]
        return [
            {"name": start + name, "type": "directory" if slash else "file"}
            for name, slash, _ in dict.fromkeys((name, slash, "") for name, slash, _ in parts)
        ]

    def get(self, urls: list[str], paths: list[str]) -> None:
        """Copy objects to files."""
        for url, path in zip(urls, paths):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(self.cat_file(url))


def _launch_words(world: World, place: Path, options: dict[str, str]) -> list[str]:
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (source / name).write_text("")
    fixed = {**GOOD, "--source": str(source), "--out": str(place / "out"), **options}
    words = [word for name, value in fixed.items() for word in (name, value)]
    return ["launch", str(world.run / "config.json"), *words, "--no-estimate"]


def _draw_wrong(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a launch with one option that cannot be right: no tool is called."""
    option = rng.choice(list(WRONG))
    value = rng.choice(WRONG[option])
    argv = _launch_words(world, place, {option: value})
    missing = ""
    if rng.random() < 0.1:  # and one that is not there
        missing = rng.choice(list(GOOD))
        at = argv.index(missing)
        argv = [*argv[:at], *argv[at + 2 :]]
    tool = FakeTool("gcloud", _folder(place / "bin"), {"": "unexpected"})

    def check(code: int) -> None:
        if tool.calls:
            raise AssertionError(f"called {tool.calls[0]} before it refused")

    return _guarded(argv, place, Bucket({}), check, (option, missing), True)


def _draw_errand(rng: random.Random, world: World, place: Path) -> Trial:
    """Return a launch on a cloud that answers anything, to the end or without `--yes`."""
    is_started = rng.random() < 0.8
    more = rng.sample(("--spot", "--keep", "--price-per-chip-hour=1.5", "--attempts=2"), k=2)
    argv = [*_launch_words(world, place, {}), *more, *(("--yes",) if is_started else ())]
    # What ends: a request that waits for ever is ended by the cloud alone.
    odd_states = [NOT_FOUND, *rng.choices(REQUESTS, k=rng.randrange(5)), rng.choice(LAST)]
    step = rng.choice(("scp", "install.sh", "run.sh"))
    odd = {
        "config get-value project": rng.choice(("(unset)\n", "", QUOTA)),
        "accelerator-types list": rng.choice(("v6e-8\n", "", "\x1b[2J", QUOTA)),
        "queued-resources create": QUOTA,
        "queued-resources delete": rng.choice((NOT_FOUND, QUOTA)),
        "queued-resources describe": odd_states,
        "look.sh": [*rng.choices(LOOKS, k=rng.randrange(4)), rng.choice((DONE, *CODES))],
        step: [_error("[255]"), rng.choice(("", "", _error("[255]")))],
        "tail": rng.choice(TEXTS).replace("\0", ""),
        "bucket": "",
    }
    # One or two things are not as they should be, so that most of the way is gone.
    chosen = rng.sample(list(odd), k=rng.choice((0, 1, 1, 2)))
    script = {**SOUND, **{part: odd[part] for part in chosen if part != "bucket"}}
    bucket = Bucket({}, is_denied="bucket" in chosen)
    tool = FakeTool("gcloud", _folder(place / "bin"), script)

    def check(code: int) -> None:
        verbs = tool.verbs()
        if not is_started and {"create", "delete", "run"} & set(verbs):
            raise AssertionError("rented without --yes")
        is_left = "create" in verbs and "delete" not in verbs[verbs.index("create") :]
        if is_left and "--keep" not in more:
            raise AssertionError("left a slice behind")

    def fill(run: str) -> None:
        files = {"report.html": b"<p>the report", "status.json": b'{"state": "finished"}'}
        for name in rng.sample(NAMES, k=rng.randrange(3)):
            files[name] = rng.choice((b"{}", b"{", b"\xff", b'{"step": 1, "steps": 1e999}'))
        bucket.objects |= {
            f"{run.removeprefix('gs://')}/{name}": text for name, text in files.items()
        }

    names = ("gcloud", "genlab-tiny", "slice", "project", "zone", "gs://lab", "leads out of")
    return _guarded(argv, place, bucket, check, names, False, fill)


def _draw_encode(rng: random.Random, world: World, place: Path) -> Trial:
    """Return an encoding on workers that cannot start, or whose store is there."""
    odd = rng.choice(TEXTS).replace("\0", "")
    config, known = str(world.run / "config.json"), True
    cases: list[tuple[list[str], tuple[str, ...]]] = [
        ([config, "--workers", rng.choice(WHOLE)], ("--workers", "expected one argument")),
        ([config, "--runner", rng.choice(("flink", "", "DIRECT", "-"))], ("--runner",)),
        ([config, "--runner"], ("--runner",)),
        ([config, "--beam", rng.choice(("'open", '"', "\\"))], ("--beam",)),
        ([config, "--beam", rng.choice(("--regoin=x", "x", "--num_workers=many"))], ("--",)),
        ([], ("encode: expected one config",)),
        ([config, odd or "x"], ()),
        ([rng.choice(("none", "none.py", "none.json", str(world.audio)))], ()),
        ([config, "data.corpus.path=none"], ("none", "--runner")),
        ([config, "--runner", "dataflow"], ("GENLAB_SHARED_CACHE", "Beam")),
    ]
    if rng.random() < 0.1:
        cases, known = [([config, "--runner", "direct"], ("Beam",))], False
    words, names = rng.choice(cases)
    argv = ["data", "encode", *words]
    return _guarded(argv, place, Bucket({}), lambda code: None, names, known)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _guarded(
    argv: list[str],
    place: Path,
    bucket: Bucket,
    check: Callable[[int], None],
    names: tuple[str, ...],
    must_refuse: bool,
    fill: Callable[[str], None] = lambda run: None,
) -> Trial:
    """Return a command whose cloud is a folder of tools and a dict; `check` raises if what it did
    there must not be, and `fill` puts a run into the bucket once its place is known.
    """
    from genlab.cli import main
    from genlab.launch import errand, gcloud, remote

    mine = place / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")

    def open_bucket() -> Bucket:
        return bucket

    class Run(remote.RemoteRun):
        """A run that is already in the bucket."""

        def __init__(self, url: str):
            super().__init__(url)
            fill(url)

    def act() -> int:
        with (
            mock.patch.dict(os.environ, {"PATH": str(place / "bin")}),
            mock.patch.object(remote, "open_bucket", open_bucket),
            mock.patch("genlab.cli.launch.RemoteRun", Run),
            mock.patch.multiple(gcloud, POLL_S=0.0, STARTS=2),
            mock.patch.object(errand, "POLL_S", 0.0),
        ):
            code = main(argv)
        if (mine / "thesis.txt").read_text() != "years of work":
            raise AssertionError("changed what lies beside the target")
        check(code)
        return code

    shown = " ".join(repr(word) if len(word) < 80 else f"{word[:40]!r}..." for word in argv)
    names = tuple(name for name in names if name)
    return Trial(f"genlab {shown}", act, names, is_command=True, must_refuse=must_refuse)
