"""What a pip user has: the wheel, built from this tree, holds what is needed, and runs outside the
checkout.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("genlab", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
# The build needs no network if its backend is installed.
NEEDED = ("setuptools", 77)


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` that finds no genlab but that of `environment`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree, built in a copy of it: setuptools leaves folders behind."""
    name, least = NEEDED
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = "0"
    if int(version.split(".")[0]) < least:
        pytest.skip(f"building a wheel without network needs {name}>={least}; found {version}")
    if run([sys.executable, "-m", "pip", "--version"], ROOT).returncode:
        pytest.skip("building a wheel needs pip")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for source in SOURCES:
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source, tree / source, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / source, tree)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
    ]
    done = run([*command, "-w", str(out), "."], tree)
    assert done.returncode == 0, done.stderr
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The folder in which pip would put the files of the wheel."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_its_data_and_the_configs(unpacked):
    kept = {path.relative_to(ROOT) for path in (ROOT / "genlab").rglob("*") if path.is_file()}
    kept = {path for path in kept if "__pycache__" not in path.parts}
    configs = {Path("genlab") / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    described = {path for path in found if path.parts[0].endswith(".dist-info")}
    assert found - described == kept | configs
    assert {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"} <= {
        path.name for path in described
    }
    for path in configs:
        assert (unpacked / path).read_bytes() == (ROOT / path.relative_to("genlab")).read_bytes()


def genlab(unpacked: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genlab", *words]
    return run(
        command,
        folder,
        PYTHONPATH=str(unpacked),
        JAX_PLATFORMS="cpu",
        GENLAB_CACHE=str(folder / "cache"),
    )


def test_a_config_runs_by_name_outside_the_checkout(unpacked, tmp_path):
    done = genlab(unpacked, tmp_path, "budget", "presets/mar", "data.corpus.minutes=1.0")
    assert done.returncode == 0 and "parameters" in done.stdout.lower(), done.stderr
    done = genlab(unpacked, tmp_path, "budget", "no_such")
    assert done.returncode == 2 and " quickstart, " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_configs_of_the_wheel_become_files_to_edit(unpacked, tmp_path):
    done = genlab(unpacked, tmp_path, "init", "mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine/presets/moshi.py").read_bytes() == (
        ROOT / "configs/presets/moshi.py"
    ).read_bytes()
    code = (
        "from genlab.load import load_experiment; "
        "print(load_experiment('mine/presets/moshi.py').digest())"
    )
    done = run(
        [sys.executable, "-c", code], tmp_path, PYTHONPATH=str(unpacked), JAX_PLATFORMS="cpu"
    )
    here = run(
        [sys.executable, "-c", code.replace("mine", str(ROOT / "configs"))],
        tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert done.stdout and done.stdout == here.stdout, done.stderr


def test_an_installed_package_says_how_it_gets_its_extras(unpacked, tmp_path):
    code = (
        "from genlab.config.shipped import install_command; from genlab.report.results import "
        "current_commit; print(install_command('tune'), repr(current_commit()))"
    )
    # The commit is not its own if it lies in the checkout of something else.
    git = ["git", "-c", "user.name=a", "-c", "user.email=a"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        assert run([*git, *words], unpacked).returncode == 0
    done = run(
        [sys.executable, "-c", code], tmp_path, PYTHONPATH=str(unpacked), JAX_PLATFORMS="cpu"
    )
    assert done.stdout == "python -m pip install 'genlab[tune]' ''\n", done.stderr
