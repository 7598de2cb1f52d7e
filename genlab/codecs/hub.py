"""Codecs that are published on the Hugging Face Hub, as a config.json and safetensors.

In: the id of a repository, or a directory with its files. Out: the config and the tensors. A port
says what config.json means (`from_published`) and what the tensors are called.
"""

import abc
from pathlib import Path
from typing import Any, ClassVar, Self

from genlab.codecs.base import PublishedConfig, PublishedTensors
from genlab.codecs.published import (
    MAX_BYTES_PER_PARAMETER,
    MAX_CONFIG_BYTES,
    RESTORE,
    find_directory,
    fold_weight_norm,
    needs_download,
    read_config,
    read_tensors,
    weight_files,
)
from genlab.config import ConfigError, GenlabError


class HubConfig(PublishedConfig):
    """The config of a codec that is built from a config.json, and filled from safetensors."""

    hub_subfolder: ClassVar[str] = ""
    """Where in the repository config.json and the safetensors are."""
    conversion: ClassVar[str] = ""
    """What to tell a user who has no safetensors, if nobody publishes them."""

    @classmethod
    def find(cls, source: str | None) -> Path:
        """Return the directory that `source` names, downloading what is missing of a repository."""
        return find_directory(source or cls.hub_id, cls.hub_subfolder)

    @classmethod
    def needs_download(cls, source: str | None) -> bool:
        """Return whether `source` is the id of a repository that is not on this machine."""
        return needs_download(source or cls.hub_id, cls.hub_subfolder)

    @classmethod
    def describe(cls, directory: Path) -> Self:
        """Return the config that config.json describes."""
        path = directory / "config.json"
        values = read_config(directory)
        try:
            return cls.from_published(values)
        except GenlabError as error:
            raise ConfigError(f"{path}: {error}") from None
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            # A port computes with fields that may be anything.
            raise GenlabError(
                f"{path}: damaged: a field has a wrong type or size ({error!s:.80}); {RESTORE}"
            ) from None

    def read(self, directory: Path, num_parameters: int) -> PublishedTensors:
        """Return the tensors of all safetensors files in a directory."""
        files = weight_files(directory, self.conversion)
        tensors = read_tensors(files, MAX_BYTES_PER_PARAMETER * num_parameters + MAX_CONFIG_BYTES)
        return PublishedTensors(self.derive(fold_weight_norm(tensors)), files)

    @classmethod
    @abc.abstractmethod
    def from_published(cls, values: dict[str, Any]) -> Self:
        """Return the config that a published config.json describes.

        Raises:
            ConfigError: if a field asks for something that the port does not have.
        """

    def derive(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return the published tensors with those added that a model computes from others when it
        is loaded.
        """
        return tensors
