"""Puts a copy of configs/ into the wheel, as genlab/configs;
pyproject.toml says everything else.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """An editable install needs no copy: genlab finds the folder of the checkout."""

    def run(self) -> None:
        """Build the package, then add the configs that are there now and no others."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "genlab" / "configs"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree("configs", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithConfigs})
