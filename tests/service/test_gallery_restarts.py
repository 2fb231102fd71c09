"""PostgreSQL restarted under a service with clients: they are told what happened, nobody is lost, doubled or half there."""

import threading
import time
from collections import Counter

import httpx
import pytest
from serving import Gate, gated_handlers, service

from facesieve.galleries import open_gallery

pytestmark = pytest.mark.postgres

RESTARTS, WRITERS = 2, 2
AWAY = 0.5  # seconds


class Callers:
    """Clients that enrol new people, one photograph each, and one that identifies, until they are told to stop."""

    def __init__(self, url, photo):
        self.url, self.photo = url, photo
        self.told, self.unsure, self.wrong = set(), set(), []
        self.answers, self.over = Counter(), threading.Event()
        self.threads = [threading.Thread(target=self.enrol, args=(writer,)) for writer in range(WRITERS)]
        self.threads.append(threading.Thread(target=self.identify))
        for thread in self.threads:
            thread.start()

    def finish(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def enrol(self, writer):
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            number = 0
            while not self.over.is_set():
                name = f"{writer}-{number}"
                answer = http.put(f"/v1/gallery/{name}", content=self.photo, headers={"Content-Type": "image/png"})
                self.noted("enrol", answer)
                if answer.status_code == 201:
                    self.told.add(name)
                elif answer.status_code == 409 and name not in self.unsure:
                    self.wrong.append(f"{name}: {answer.text}")
                if answer.status_code == 503:
                    self.unsure.add(name)  # and asks again
                else:
                    number += 1

    def identify(self):
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            while not self.over.is_set():
                self.noted("identify", http.post("/v1/identify", content=self.photo, headers={"Content-Type": "image/png"}))

    def noted(self, what, answer):
        self.answers[what, answer.status_code] += 1
        if answer.status_code == 503 and (answer.json()["type"], "retry-after" in answer.headers) != (
            "urn:facesieve:problem:gallery",
            False,
        ):
            self.wrong.append(answer.text)


def waited(true):
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restarted_under_the_service(own_server, collins, how):
    server, stop = own_server
    location = server.get_uri()
    with service(gated_handlers(Gate(), gallery=location)) as url:
        callers = Callers(url, collins)
        try:
            for _ in range(RESTARTS):
                told, refused = len(callers.told) + 2, callers.answers["enrol", 503] + 1
                waited(lambda told=told: len(callers.told) >= told)
                stop(how)
                time.sleep(AWAY)
                waited(lambda refused=refused: callers.answers["enrol", 503] >= refused)
                server.ensure_postgres_running()
            told, named = len(callers.told) + 2, callers.answers["identify", 200] + 1
            waited(lambda: len(callers.told) >= told and callers.answers["identify", 200] >= named)
        finally:
            callers.finish()
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    assert callers.wrong == []
    # 409 of identify: nobody is enrolled yet; of enrol: the answer was lost, not the work.
    assert {status for _, status in callers.answers} <= {200, 201, 409, 503}
    gallery = open_gallery(location)
    people = {entry.person: entry.templates for entry in gallery.people()}
    gallery.close()
    assert callers.told <= set(people)
    assert set(people) - callers.told <= callers.unsure
    assert all(sorted(templates.values()) == [1, 1] for templates in people.values())
