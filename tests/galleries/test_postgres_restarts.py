"""A PostgreSQL server that is restarted under writers: who was told is not lost, nobody is half there, the gallery goes on."""

import threading
import time

import numpy as np
import pytest

from facesieve.errors import GalleryError, GalleryFailedError
from facesieve.galleries import create_gallery, open_gallery

pytestmark = pytest.mark.postgres

RESTARTS, DIMENSIONS = 2, 8


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restarted_under_load_everybody_who_was_told_is_enrolled_and_whole(own_server, how):
    server, stop = own_server
    location, done = server.get_uri(), threading.Event()
    told, refused, known = [], [], []
    create_gallery(location, embedder="toy", dimensions=DIMENSIONS).close()
    rows = np.eye(3, DIMENSIONS, dtype=np.float32)

    def enrol(writer):
        gallery, number = open_gallery(location), 0
        while not done.is_set():
            name = f"{writer}-{number}"
            try:
                gallery.enrol(name, {"raw": rows, "toy": rows[:2]})
                told.append(name)
            except GalleryFailedError as error:
                refused.append(str(error))
                time.sleep(0.05)
            except GalleryError as error:  # the answer to the last try was lost, not its work
                known.append(str(error))
                number += 1
            else:
                number += 1
        gallery.close()

    writers = [threading.Thread(target=enrol, args=(writer,)) for writer in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(RESTARTS):
        before = len(told)
        while len(told) < before + 5:
            time.sleep(0.01)
        stop(how)
        server.ensure_postgres_running()
    before = len(told)
    deadline = time.monotonic() + 60
    while len(told) < before + 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for writer in writers:
        writer.join()
    assert len(told) >= before + 5  # the same galleries went on
    gallery = open_gallery(location)
    people = {entry.person: entry.templates for entry in gallery.people()}
    assert set(told) <= set(people)
    assert all(templates == {"raw": 3, "toy": 2} for templates in people.values())
    assert all("\n" not in line for line in refused)
    assert all("is enrolled already" in line for line in known)
    gallery.close()
    with pytest.raises(GalleryFailedError, match="closed"):
        gallery.people()
