"""Packages in repositories of the Hugging Face Hub, or of a server that speaks its protocol
(`HF_ENDPOINT`).

In: a folder that `export_package` wrote, or the id of a repository. Out: a commit of its files, or
such a folder, checked like any other. What is downloaded runs no code.
"""

import os
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.packages.package import FILES, Package, load_package
from genlab.run.stored import partial_path

_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def push_package(folder: Path, repository: str, *, is_private: bool = True) -> str:
    """Upload a package as one commit; return where it is.

    Args:
        folder: the package; it is read whole before anything is sent.
        repository: OWNER/NAME; made if it is not there.
        is_private: whether a repository that is made can be read by its owner alone.

    Raises:
        GenlabError: if the folder is no package, or the hub refuses.
    """
    check_repository(repository)
    load_package(folder)
    api = HfApi()
    try:
        api.create_repo(repository, private=is_private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"Add {folder.name}",
        )
    except Exception as error:  # the transport below the hub has errors without a public base
        raise _refused(repository, error) from None
    return str(done.commit_url)


def pull_package(repository: str, out: Path, *, revision: str | None = None) -> Package:
    """Download a package into the new folder `out`, whole or not at all, and return it.

    Args:
        repository: OWNER/NAME.
        out: a folder that does not exist.
        revision: a branch, a tag or a commit; the newest commit if nothing is said.

    Raises:
        GenlabError: if `out` exists, the hub refuses, or what comes is no intact package.
    """
    check_repository(repository)
    if os.path.lexists(out):
        raise GenlabError(f"--out {out}: already exists; name another folder, or move it away")
    # Nothing takes the name that was asked for before it is whole and checked.
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        HfApi().snapshot_download(
            repository, revision=revision, local_dir=partial, allow_patterns=list(FILES)
        )
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # notes of the download
        package = load_package(partial)
        os.rename(partial, out)
    except GenlabError as error:
        raise GenlabError(str(error).replace(str(partial), repository)) from None
    except Exception as error:  # as in `push_package`
        raise _refused(repository, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return package


def check_repository(repository: str) -> None:
    """Refuse what is not the id of a repository.

    Raises:
        GenlabError: with the form of one.
    """
    if not _ID.fullmatch(repository):
        raise GenlabError(f"{shorten(repository)}: expected a repository as OWNER/NAME")


def _refused(repository: str, error: Exception) -> GenlabError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    fix = "check the name, the network, and who you are (`hf auth login`, or HF_TOKEN)"
    return GenlabError(f"{repository}: {type(error).__name__}: {reason.strip():.120}; {fix}")
