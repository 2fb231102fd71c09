"""The wheel and the sdist that the tests of the package install."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A wheel and an sdist of a copy of the repository, so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "source"
    unwanted = shutil.ignore_patterns(".git", ".venv", "out", "dist", "models", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "dist"
