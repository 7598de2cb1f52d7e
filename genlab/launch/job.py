"""What runs on the slice: a comparison, its source, and the scripts that every host executes.

In: a config and a bucket. Out: a folder with the source as an archive and the scripts in it. The
run directory lies in the bucket, so nothing of value is ever on the slice; the same command finds
it there and resumes. A host keeps `genlab_launch.log`, and `genlab_launch.exit` once the command
has ended; a lock says whether it runs, so that starting it again is harmless.
"""

import io
import json
import os
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from genlab.config import GenlabError
from genlab.config.shipped import PACKAGE, is_checkout
from genlab.experiment import Comparison
from genlab.machine.stopping import EXIT_RESUME
from genlab.run.ownership import refuse_to_replace, says
from genlab.run.stored import whole_file, write_atomically
from genlab.run.trust import code_file, find_code
from genlab.sweeps.executors import names_in

ARCHIVE = "genlab_source.tar.gz"
SCRIPTS = "genlab_launch"  # a folder in the archive
# Words that a host prints about its job; all else that ssh prints is left unread.
SIGHT = re.compile(r"^genlab-job: (running|gone|[0-9]{1,3})$", re.MULTILINE)
# Which host says so: the names that Google gives to the hosts of a slice end in their number.
HOST = re.compile(r"^genlab-host: \S+-w-([0-9]{1,4})$", re.MULTILINE)
# How often a host starts a command again that asked for it; then the exit code is for a person.
STARTS = 20
_NOT_SOURCE = {".git", ".venv", ".genlab_cache", "__pycache__", "build", "runs", "site"}

INSTALL = """\
# The image's own Python is older than 3.11.
set -e
test -x ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh
test -x ~/genlab_env/bin/python || ~/.local/bin/uv venv --python 3.12 ~/genlab_env
cd ~/genlab_source
~/.local/bin/uv pip install --python ~/genlab_env -e '.[tpu]' -c constraints.txt
"""
RUN = """\
# Only one at a time; the lock ends with the processes that hold it.
cd ~/genlab_source
exec 9> ~/genlab_launch.lock
flock -n 9 || exit 0
rm -f ~/genlab_launch.exit
export GENLAB_CACHE=~/genlab_cache GENLAB_SHARED_CACHE={bucket}/cache
for attempt in $(seq {starts}); do
  ~/genlab_env/bin/genlab {command}
  code=$?
  # {resume} asks to be started again: another host was stopped, and all have saved.
  [ "$code" = {resume} ] || break
  sleep 5
done
echo "$code" > ~/genlab_launch.exit
"""
LOOK = """\
state=gone
if ! flock -n ~/genlab_launch.lock true; then
  state=running
elif [ -s ~/genlab_launch.exit ]; then
  state=$(cat ~/genlab_launch.exit)
fi
echo "genlab-job: $state"
echo "genlab-host: $(uname -n)"
"""


class Job:
    """One comparison with its run directory in a bucket; `folder` is where its files lie here."""

    def __init__(self, config: Comparison, bucket: str, folder: Path, source: Path | None = None):
        """Take the checkout that this genlab runs from, or `source`.

        Raises:
            GenlabError: if that is no checkout, or the config refers to code outside it.
        """
        self.config, self.bucket, self.folder = config, bucket, folder
        self.source = _find_source(source)
        key = config.digest(exclude={"settings"})
        self.name = f"{config.name}-{key}"
        # Names of machines: lower case letters, digits and '-', at most 63 characters.
        slug = re.sub(r"[^a-z0-9]+", "-", config.name.lower()).strip("-")[:40].strip("-")
        self.machine = "-".join(part for part in ("genlab", slug, key) if part)
        _check_code_travels(config, self.source)

    @property
    def url(self) -> str:
        """The run directory."""
        return f"{self.bucket}/{self.name}"

    @property
    def archive(self) -> Path:
        """The source and the scripts, to be copied to every host."""
        return self.folder / ARCHIVE

    @property
    def config_file(self) -> Path:
        """The config as it will run, with every override in it."""
        return self.folder / "config.json"

    @property
    def named(self) -> list[str]:
        """Overrides that name the code and the codec, which a config.json cannot do by itself."""
        return names_in(self.config)

    def scripts(self) -> dict[str, str]:
        """Return the text of each script by its name."""
        words = ["compare", f"{SCRIPTS}/config.json", *self.named, "--out", self.url]
        run = RUN.format(
            bucket=self.bucket, starts=STARTS, command=shlex.join(words), resume=EXIT_RESUME
        )
        return {"install.sh": INSTALL, "run.sh": run, "look.sh": LOOK}

    def write(self) -> None:
        """Write the config and the archive into the folder; what an earlier command wrote there is
        replaced whole.

        Raises:
            GenlabError: if what lies there is not of such a command.
        """
        is_ours = says(self.config_file, {"kind", "arms"})
        for path in (self.config_file, self.archive):
            refuse_to_replace(path, is_ours)
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.config.to_dict(), indent=1)
        texts = {f"{SCRIPTS}/{name}": text for name, text in self.scripts().items()}
        texts[f"{SCRIPTS}/config.json"] = content
        write_atomically(self.config_file, content)
        with whole_file(self.archive) as partial:
            _pack(partial, self.source, texts)


def _find_source(source: Path | None) -> Path:
    if source is None and not is_checkout():
        raise GenlabError(
            "launch: hosts install genlab from a checkout, and this genlab is not one; give it "
            "with --source FOLDER"
        )
    found = (source or PACKAGE.parent).absolute()
    if not (found / "pyproject.toml").is_file() or not (found / "constraints.txt").is_file():
        raise GenlabError(f"--source {found}: expected a checkout of genlab, with pyproject.toml")
    return found


def _check_code_travels(config: Comparison, source: Path) -> None:
    """Refuse code that the hosts would not find: what they get is the source."""
    for field, text in find_code(config.to_dict()):
        path = code_file(text)
        if path is None:
            continue
        # Relative to where the hosts run it, which is the top of the source.
        if path.is_absolute() or not (source / path).is_file():
            raise GenlabError(
                f"{field} {text}: not in {source}, so the hosts would not have it; move the file "
                "there, and name it by its path from there"
            )


def _files_of(source: Path) -> Iterator[Path]:
    """Yield the files of a checkout: those that git tracks or would, or all but what is built."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=source, capture_output=True, check=False)
        names = os.fsdecode(done.stdout).split("\0") if done.returncode == 0 else []
    except OSError:  # no git
        names = []
    if names:
        yield from (source / name for name in sorted(set(names)) if (source / name).is_file())
        return
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(set(folders) - _NOT_SOURCE)
        yield from (Path(folder) / name for name in sorted(files))


def _pack(path: Path, source: Path, texts: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for file in _files_of(source):
            archive.add(file, str(file.relative_to(source)), recursive=False)
        for name, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
