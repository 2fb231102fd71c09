"""A shard format: a zip archive of photographs, each with its record behind it when it is purified."""

import json
from contextlib import contextmanager
from pathlib import PurePath
from zipfile import BadZipFile, ZipFile

from facesieve.errors import InputError
from facesieve.folders import IMAGE_SUFFIXES
from facesieve.jobs.formats import FORMATS, Sample, ShardFormat


def read(source, column):
    try:
        with ZipFile(source) as archive:
            for name in archive.namelist():
                path, data = PurePath(name), archive.read(name)
                is_photograph = path.suffix.lower() in IMAGE_SUFFIXES
                yield Sample(path.stem if is_photograph else "", data if is_photograph else None, rest=(name, data))
    except BadZipFile as error:
        raise InputError("not a zip archive, or a damaged one", source, "copy it again") from error


@contextmanager
def writer(file, source, column):
    with ZipFile(file, "w") as archive:
        yield _Writer(archive)


class _Writer:
    def __init__(self, archive):
        self._archive = archive

    def write(self, sample, png, record):
        name, data = sample.rest
        self._archive.writestr(name if png is None else f"{sample.key}.png", data if png is None else png)
        if record is not None:
            self._archive.writestr(f"{sample.key}.facesieve.json", json.dumps(record))


FORMATS.register(".zip", ShardFormat(read, writer))
