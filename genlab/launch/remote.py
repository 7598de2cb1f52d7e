"""The run directory in the bucket, seen from the machine that launched it.

In: its address. Out: whether the bucket can be used, how far every arm is by its status.json, and
a copy of everything but the checkpoints. Nothing there is changed, but for one small object that
`check` writes and removes.
"""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import one_line
from genlab.run.bucket import is_mirrored
from genlab.run.names import inside
from genlab.run.ownership import check_is_ours
from genlab.run.shared import SCHEME, open_bucket, put, told
from genlab.run.stored import partial_path

REPORT = "report.html"
STATUS = "status.json"


class RemoteRun:
    """A run directory at `url`."""

    def __init__(self, url: str):
        self.url = url
        self._files = open_bucket()

    def check(self, bucket: str) -> None:
        """Write an object into the bucket, read it back, remove it.

        Raises:
            GenlabError: that says what to do if there is no such bucket, or it may not be written.
        """
        probe = f"{bucket}/genlab-probe-{uuid.uuid4().hex}"
        try:
            put(self._files, b"genlab", probe)
            found = self._files.cat_file(probe)
            self._files.rm_file(probe)
        except FileNotFoundError:
            name = bucket.removeprefix(SCHEME).partition("/")[0]
            raise GenlabError(
                f"--bucket {bucket}: no such bucket; run `gcloud storage buckets create "
                f"gs://{name} --location=REGION` with the region of the zone"
            ) from None
        except Exception as error:  # gcsfs and its libraries raise dozens
            reason = one_line(str(error).strip() or type(error).__name__, 200)
            raise GenlabError(
                f"--bucket {bucket}: cannot be written: {reason}; log in with `gcloud auth "
                "application-default login`, with the role Storage Object Admin on the bucket"
            ) from None
        if found != b"genlab":
            raise GenlabError(f"--bucket {bucket}: an object did not come back as it was written")

    def statuses(self) -> dict[str, dict[str, JsonValue]]:
        """Return the status of the comparison, as "", and of every arm and seed by its place."""
        found = {}
        with told(self.url, "read"):
            # Folder by folder: a pattern would list every sample and checkpoint, at every look.
            arms = [seed for arm in self._folders("arms") for seed in self._folders(arm)]
            for name in ("", *arms):
                place = f"{self.url}/{name}/{STATUS}" if name else f"{self.url}/{STATUS}"
                with contextlib.suppress(FileNotFoundError):
                    values = _parse(self._files.cat_file(place))
                    if isinstance(values, dict):
                        found[name] = values
        return found

    def _folders(self, name: str) -> list[str]:
        """Return the folders in a folder of the run directory, as it names them."""
        start = len(self.url.removeprefix(SCHEME)) + 1
        try:
            listed = self._files.ls(f"{self.url}/{name}", detail=True)
        except FileNotFoundError:
            return []
        return [item["name"][start:].rstrip("/") for item in listed if item["type"] == "directory"]

    def pull(self, folder: Path) -> Path:
        """Copy the run directory to `folder`, less its checkpoints; return where the report is.

        Files are replaced one by one, each whole; what only lies here stays.

        Raises:
            GenlabError: if the bucket cannot be read, or somebody else's files are there.
        """
        check_is_ours(folder)
        fresh = partial_path(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        start = len(self.url.removeprefix(SCHEME)) + 1
        with told(self.url, "read"):
            names = [path[start:] for path in self._files.find(self.url)]
            names = [name for name in names if name and is_mirrored(name)]
            places = [inside(fresh, name) for name in names]
            self._files.get([f"{self.url}/{name}" for name in names], [str(at) for at in places])
        for name, place in zip(names, places):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(place, folder / name)
        shutil.rmtree(fresh, ignore_errors=True)
        return folder / REPORT


def _parse(content: bytes) -> JsonValue:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # half an answer; the next turn reads it again
        return None
