"""A little data set of people, and what is chosen of it."""

import pytest
from make_people import FEW, pictures, write_folders

from facesieve.evaluate.protocol import select
from facesieve.evaluate.sources import open_source


@pytest.fixture(scope="session")
def people(sample_paths):
    return pictures(sample_paths, 6)


@pytest.fixture
def folder(people, tmp_path):
    write_folders(tmp_path / "folder", people)
    return tmp_path / "folder"


@pytest.fixture(scope="session")
def chosen(people, tmp_path_factory):
    root = tmp_path_factory.mktemp("chosen") / "folder"
    write_folders(root, people)
    return root, select(open_source(root), FEW)
