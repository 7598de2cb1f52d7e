"""A file from a web server: resumed where it was cut, whole only once its checksum is right.

In: an address, a checksum and a place. Out: the file. Until it is whole it is PLACE.part, which the
next attempt, or the next command, continues with a range request (RFC 9110, section 14). A server
that knows no ranges, or answers another one than asked, is asked for all of it. Only http and https
are opened, also where a server redirects.
"""

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, NamedTuple

from genlab import __version__
from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.machine.stopping import EXIT_RESUME

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 60.0
ATTEMPTS = 5  # in a row that bring nothing
WAIT_S = 1.0  # before the second attempt, then twice as long each time
FINAL = {400, 401, 403, 404, 405, 410, 451}  # asking again would change nothing

Progress = Callable[[int], None]


class InterruptedDownload(GenlabError):
    """A server does not answer; what came is kept, and the same command resumes."""

    exit_code = EXIT_RESUME


class Checksum(NamedTuple):
    """What a file must be: the name of a hash of `hashlib`, its digits, and its size if known."""

    algorithm: str
    digits: str
    num_bytes: int | None = None


class _CutError(Exception):
    """The connection broke, or the server said so."""


class _BadRangeError(Exception):
    """The server answers another range than was asked for."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        # The standard library itself refuses what is neither http, https nor ftp.
        if not newurl.lower().startswith(("http://", "https://")):
            raise GenlabError(
                f"{req.full_url}: redirects to {shorten(newurl)}; expected http or https"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    path: Path,
    checksum: Checksum,
    *,
    progress: Progress = lambda done: None,
    wait_s: float = WAIT_S,
) -> None:
    """Put the file at `url` to `path`, unless a right one is there already.

    Args:
        url: http or https.
        path: where it goes; PATH.part holds what came so far.
        checksum: what the file must be.
        progress: called with the bytes so far.
        wait_s: seconds before a second attempt.

    Raises:
        GenlabError: if the file is not there, or is another one than `checksum` says.
        InterruptedDownload: if the server does not answer any more.
    """
    if path.exists():
        return  # it took its name once it was checked
    partial = path.with_name(f"{path.name}.part")
    is_pieced = _fetch(url, partial, checksum, progress, wait_s)
    found = digest_file(partial, checksum.algorithm)
    if found != checksum.digits and is_pieced:
        # Its pieces may be of different files at the same address.
        partial.unlink()
        _fetch(url, partial, checksum, progress, wait_s)
        found = digest_file(partial, checksum.algorithm)
    if found != checksum.digits:
        partial.unlink()
        raise GenlabError(
            f"{url}: its {checksum.algorithm} is {found}, expected {checksum.digits}: the "
            "publisher has changed the file, or something between here and there has; not used"
        )
    os.replace(partial, path)


def _fetch(url: str, partial: Path, checksum: Checksum, progress: Progress, wait_s: float) -> bool:
    """Download to the end, and return whether it came in several pieces."""
    failures = 0
    is_pieced = partial.exists()
    uses_ranges = True
    while True:
        before = _size(partial)
        try:
            if checksum.num_bytes is None or before < checksum.num_bytes or before == 0:
                _continue(url, partial, checksum.num_bytes, progress, uses_ranges)
            return is_pieced
        except _BadRangeError:
            if not uses_ranges:
                raise InterruptedDownload(
                    f"{url}: the server answers a part where all of it was asked for; try later"
                ) from None
            uses_ranges = False
        except _CutError as error:
            # A long way over a bad line is fine as long as every attempt brings something.
            failures = 0 if _size(partial) > before else failures + 1
            if failures >= ATTEMPTS:
                kept = _size(partial)
                raise InterruptedDownload(
                    f"{url}: {error!s:.200}; {kept:,} bytes are kept, and the same command resumes"
                ) from None
            time.sleep(wait_s * 2**failures)
            is_pieced = True


def digest_file(path: Path, algorithm: str) -> str:
    """Return the digits of a file's hash."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(
    url: str, partial: Path, num_bytes: int | None, progress: Progress, uses_ranges: bool
) -> None:
    """Ask for what is missing, and append it; ask for everything without `uses_ranges`."""
    have = _size(partial) if uses_ranges else 0
    headers = {"User-Agent": f"genlab/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    response = _open(url, headers)
    with contextlib.closing(response):
        if response.status == 206:
            _check_range(response, have, num_bytes)
        elif response.status != 200:
            raise _CutError(f"the server answers {response.status}")
        else:
            have = 0  # it sends all of it
        expected = response.headers.get("Content-Length")
        total = have + int(expected) if expected and expected.isdigit() else num_bytes
        with open(partial, "ab" if have else "wb") as file:
            while chunk := _read(response):
                have += len(chunk)
                if num_bytes is not None and have > num_bytes:
                    raise GenlabError(
                        f"{url}: sends more than the {num_bytes:,} bytes that the file has; not "
                        "used"
                    )
                file.write(chunk)
                progress(have)
        if total is not None and have < total:
            raise _CutError(f"the connection ended after {have:,} of {total:,} bytes")


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_Redirects)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            if error.code == 416:
                raise _BadRangeError from None
            if error.code in FINAL or 300 <= error.code < 400:
                raise GenlabError(
                    f"{url}: the server answers {error.code} {error.reason!s:.120}; see the "
                    "page of its publisher for another address, and give it with --sources"
                ) from None
            raise _CutError(f"the server answers {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _CutError(f"no connection ({reason!s:.120})") from None


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"the connection broke ({error!s:.120})") from None


def _check_range(response: http.client.HTTPResponse, have: int, num_bytes: int | None) -> None:
    """Refuse to append what does not begin where the file ends."""
    sent = response.headers.get("Content-Range", "")
    parts = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", sent)
    if parts is None or int(parts[1]) != have or have == 0:
        raise _BadRangeError
    if num_bytes is not None and parts[3] not in ("*", str(num_bytes)):
        raise _BadRangeError
