"""Galleries: one list of tests, all back ends. The oracle of a search is a matrix product over all templates."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import enrol_until_killed
import numpy as np
import pytest

from facesieve.errors import FacesieveError, GalleryError, InputError, MissingExtraError
from facesieve.galleries import copy_gallery, create_gallery, open_gallery
from facesieve.galleries import lance as gallery_lance
from facesieve.galleries.base import RAW, Calibration, Entry
from facesieve.galleries.folder import FolderGallery

DIMENSIONS = 16
NAMES = (
    "O'Brien",
    "x' OR 1=1 --",
    '"; DROP TABLE templates; --',
    "'); DELETE FROM people; --",
    "back\\slash' OR 'a'='a",
    "\\'",
    "%",
    "_",
    "{0} %s %(probe)s $1",
    "Ада Лавлейс",
    "李小龍",
    "👩🏽‍🚀",
    "a/b/../c",
    "NULL",
    "é" * 200,
)
numbers = count()


BACK_ENDS = ["folder", "lance", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=BACK_ENDS)
def location(request, tmp_path):
    return place(request, tmp_path / "gallery", f"t{next(numbers)}")


def place(request, folder, name):
    """A new gallery's location, of the back end that is asked for."""
    if request.param == "postgres":
        return f"{request.getfixturevalue('server')}&gallery={name}"
    return {"folder": str(folder), "lance": f"lancedb://{folder}"}[request.param]


@pytest.fixture
def gallery(location):
    gallery = create_gallery(location, embedder="toy", dimensions=DIMENSIONS)
    yield gallery
    gallery.close()


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_rows(rng, number, dimensions=DIMENSIONS):
    return unit(rng.standard_normal((number, dimensions)))


def random_people(rng, number, some=()):
    """Everyone has raw templates and those of the purifier fast; some have those of others too."""
    people = {}
    for index in range(number):
        others = [label for label in some if rng.random() < 0.5]
        people[f"person {index}"] = {label: random_rows(rng, int(rng.integers(1, 5))) for label in (RAW, "fast", *others)}
    return people


def exact(people, probe, kind, many):
    """(person, cosine) of the best people, by comparing the probe with all templates of one kind."""
    best = {person: float((templates[kind] @ probe).max()) for person, templates in people.items()}
    return sorted(best.items(), key=lambda item: -item[1])[:many]


def assert_exact(gallery, people, probes, kind, many):
    for found, probe in zip(gallery.search(probes, kind=kind, count=many), probes, strict=True):
        wanted = exact(people, probe, kind, many)
        assert [match.person for match in found] == [person for person, _ in wanted]
        np.testing.assert_allclose([match.score for match in found], [score for _, score in wanted], atol=1e-5)


# --- search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_search_is_exact_on_random_galleries(gallery, seed):
    rng = np.random.default_rng(seed)
    people = random_people(rng, int(rng.integers(1, 60)), some=("paper",))
    early = dict(list(people.items())[: len(people) // 2 + 1])
    gallery.enrol_all(early)
    late = [person for person in people if person not in early and rng.random() < 0.3]
    for person in late:
        gallery.enrol(person, people[person])
    people = early | {person: people[person] for person in late}
    for kind in (RAW, "fast"):
        for many in (1, 3, 100):
            assert_exact(gallery, people, random_rows(rng, 3), kind, many)
    gallery.enrol("without fast", {RAW: random_rows(rng, 1), "paper": random_rows(rng, 1)})
    for kind in ("fast", "never used"):
        with pytest.raises(GalleryError, match=f"and those of {kind} are searched"):
            gallery.search(random_rows(rng, 1), kind=kind)


def test_people_are_found_behind_many_better_templates_of_one(gallery):
    """The first rows that a search reads are all of one person; it must go on reading."""
    rng = np.random.default_rng(0)
    probe = np.eye(DIMENSIONS, dtype=np.float32)[:1]
    people = {"many": {RAW: unit(probe + 0.05 * rng.standard_normal((500, DIMENSIONS)))}}
    people |= {f"other {i}": {RAW: random_rows(rng, 2)} for i in range(8)}
    gallery.enrol_all(people)
    assert_exact(gallery, people, probe, RAW, 5)


@pytest.mark.parametrize("indexed", [False, True])
def test_with_an_index_new_templates_are_found_and_removed_ones_are_not(gallery, indexed):
    rng = np.random.default_rng(1)
    people = random_people(rng, 400)
    gallery.enrol_all(people)
    assert not gallery.build_index()  # ten thousand are too few by far
    has_index = not isinstance(gallery, FolderGallery)
    assert gallery.build_index(at_least=1 if indexed else 10**6) == (indexed and has_index)
    assert_exact(gallery, people, random_rows(rng, 10), RAW, 5)
    late = random_people(rng, 3)
    for name, templates in late.items():
        gallery.enrol(f"late {name}", templates)
        people[f"late {name}"] = templates
    for name in ("person 7", "person 8", "late person 1"):
        removed = people.pop(name)
        assert gallery.remove(name) == sum(map(len, removed.values()))
    probes = np.concatenate([late["person 0"][RAW], removed[RAW], random_rows(rng, 5)])
    for kind in (RAW, "fast"):
        assert_exact(gallery, people, probes, kind, 5)


def test_settings_that_search_little_still_find_everyone_who_is_asked_for(gallery):
    """Of an index of many parts one is searched; where it holds too few people, the others are too."""
    rng = np.random.default_rng(4)
    people = random_people(rng, 300)
    if isinstance(gallery, gallery_lance.LanceGallery):
        gallery.settings = replace(gallery.settings, nprobes=1)
    elif not isinstance(gallery, FolderGallery):  # which has none
        gallery.settings = replace(gallery.settings, probes=0.01, rows_per_list=20)
    gallery.enrol_all(people)
    gallery.build_index(at_least=1)
    own = np.stack([templates[RAW][0] for templates in people.values()])[:5]
    for found, person in zip(gallery.search(own, count=3), people, strict=False):
        assert found[0].person == person
    assert_exact(gallery, people, own, RAW, 300)


def test_no_probes_and_probes_of_another_type(gallery):
    gallery.enrol("Ada", {RAW: np.eye(1, DIMENSIONS, dtype=np.float32)})
    assert gallery.search(np.empty((0, DIMENSIONS), np.float32)) == []
    [[match]] = gallery.search(np.eye(1, DIMENSIONS))  # float64 is taken too
    assert (match.person, round(match.score, 5)) == ("Ada", 1)


# --- what is kept -------------------------------------------------------------------------------


def contents_of(exported):
    """person -> purifier label -> rows."""
    people = {}
    for template in exported:
        people.setdefault(template.person, {}).setdefault(template.purifier, []).append(template.row)
    return people


def test_templates_come_back_as_they_were(gallery, location):
    rng = np.random.default_rng(2)
    people = random_people(rng, 20)
    gallery.enrol_all(people)
    again = open_gallery(location, embedder="toy", dimensions=DIMENSIONS)
    counts = [Entry(person, {label: len(rows) for label, rows in people[person].items()}) for person in sorted(people)]
    assert again.people() == counts
    exported = contents_of(again.export())
    assert list(exported) == sorted(people)
    for person, contents in exported.items():
        assert contents.keys() == people[person].keys()
        for label, rows in contents.items():
            np.testing.assert_array_equal(np.stack(rows), people[person][label])
        np.testing.assert_array_equal(again.templates_of(person, kind="fast"), people[person]["fast"])
        np.testing.assert_array_equal(again.templates_of(person), people[person][RAW])
    again.close()


def test_two_who_have_the_gallery_open_see_each_others_writes(gallery, location):
    other = open_gallery(location)
    row = np.eye(2, DIMENSIONS, dtype=np.float32)
    gallery.enrol("Ada", {RAW: row[:1]})
    assert other.search(row[:1])[0][0].person == "Ada"
    other.enrol("Bob", {RAW: row[1:]})
    assert [entry.person for entry in gallery.people()] == ["Ada", "Bob"]
    assert gallery.people("Bob") == [entry for entry in gallery.people() if entry.person == "Bob"]
    assert gallery.people("B") == gallery.people("' OR ''='") == []
    other.remove("Ada")
    assert [match.person for match in gallery.search(row[:1])[0]] == ["Bob"]
    other.close()


def test_calibrations_are_one_for_each_purifier_and_kind_of_templates(gallery, location):
    first, second = Calibration(0.3, 1e-3, RAW, 1000), Calibration(0.25, 1e-3, "O'Brien's", 2000)
    third, fourth = Calibration(0.28, 1e-3, "O'Brien's", 3000, RAW), Calibration(0.26, 1e-3, "O'Brien's", 4000, "O'Brien's")
    for calibration in (
        Calibration(0.9, 1e-2, RAW, 10),
        first,
        second,
        Calibration(0.9, 1e-2, "O'Brien's", 10, RAW),
        third,
        fourth,
    ):
        gallery.calibrate(calibration)
    assert sorted(open_gallery(location).calibrations(), key=lambda c: c.pairs) == [first, second, third, fourth]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_a_name_and_nothing_else(names_gallery, name):
    """Everyone else is still there after all that was done with one name, also as the label of a purifier."""
    gallery, rows = names_gallery
    assert gallery.templates_of(name).shape == (1, DIMENSIONS)
    assert gallery.search(rows[NAMES.index(name)][None], count=1)[0][0].person == name
    with pytest.raises(GalleryError, match="enrolled already"):
        gallery.enrol(name, {RAW: rows[:1]})
    assert gallery.remove(name) == 1
    with pytest.raises(GalleryError, match="nobody called"):
        gallery.remove(name)
    assert {entry.person for entry in gallery.people()} == {*NAMES} - {name}
    label = name[:100] + "*"
    gallery.enrol(name, {RAW: rows[NAMES.index(name)][None], label: rows[-1:]})
    np.testing.assert_array_equal(gallery.templates_of(name, kind=label), rows[-1:])
    assert frozenset([RAW, label]) in gallery.label_sets()
    assert len(gallery.search(rows[:1], count=50)[0]) == len(NAMES)
    with pytest.raises(GalleryError, match="are searched"):
        gallery.search(rows[:1], kind=label)
    assert gallery.remove(name) == 2
    gallery.enrol(name, {RAW: rows[NAMES.index(name)][None]})


@pytest.fixture(scope="module", params=BACK_ENDS)
def names_gallery(request, tmp_path_factory):
    """One gallery of all the names, which each test leaves as it was."""
    here = place(request, tmp_path_factory.mktemp("names") / "gallery", "names")
    gallery, rows = create_gallery(here, embedder="toy", dimensions=DIMENSIONS), np.eye(DIMENSIONS, dtype=np.float32)
    gallery.enrol_all({name: {RAW: rows[index][None]} for index, name in enumerate(NAMES)})
    yield gallery, rows
    gallery.close()


def test_what_looks_the_same_is_the_same_name(gallery):
    row = np.eye(1, DIMENSIONS, dtype=np.float32)
    gallery.enrol("  Zo\u00e9 ", {RAW: row})
    assert len(gallery.templates_of("Zoe\u0301")) == 1  # composed on one system, decomposed on another
    with pytest.raises(GalleryError, match="enrolled already"):
        gallery.enrol("Zoe\u0301", {RAW: row})


# --- mistakes -----------------------------------------------------------------------------------


def one_line(caught):
    text = str(caught.value)
    return "\n" not in text and len(text) > 20


def test_mistakes_are_one_line_and_nothing_is_lost(gallery):
    row, other = np.eye(1, DIMENSIONS, dtype=np.float32), np.eye(2, DIMENSIONS, dtype=np.float32)[1:]
    mistakes = [
        (GalleryError, "is empty", lambda: gallery.search(row)),
        (InputError, "nobody to enrol", lambda: gallery.enrol_all({})),
    ]
    for error, words, act in mistakes:
        with pytest.raises(error, match=words) as caught:
            act()
        assert one_line(caught)
    gallery.enrol("Ada", {RAW: row})
    mistakes = [
        (GalleryError, "Ada is enrolled already", lambda: gallery.enrol("Ada", {RAW: other})),
        (GalleryError, "Ada is enrolled already", lambda: gallery.enrol_all({"Bob": {RAW: other}, "Ada": {RAW: other}})),
        (InputError, "Bob: given twice", lambda: gallery.enrol_all({"Bob": {RAW: other}, " Bob": {RAW: other}})),
        (GalleryError, "nobody called Bob", lambda: gallery.remove("Bob")),
        (GalleryError, "nobody called Bob", lambda: gallery.templates_of("Bob")),
        (InputError, "no templates", lambda: gallery.enrol("Bob", {})),
        (InputError, "no templates of raw", lambda: gallery.enrol("Bob", {RAW: row[:0]})),
        (InputError, "shape", lambda: gallery.enrol("Bob", {RAW: row[:, 1:]})),
        (InputError, "shape", lambda: gallery.enrol("Bob", {RAW: row[0]})),
        (InputError, "norm 1", lambda: gallery.enrol("Bob", {"fast": row, RAW: 2 * row})),
        (InputError, "norm 1", lambda: gallery.enrol("Bob", {RAW: row * np.nan})),
        (InputError, "not an array", lambda: gallery.enrol("Bob", {RAW: "no rows"})),
        (InputError, "shape", lambda: gallery.search(row[:, 1:])),
        (InputError, "norm 1", lambda: gallery.search(0 * row)),
        (InputError, "ask for 1 or more", lambda: gallery.search(row, count=0)),
        (InputError, "is empty", lambda: gallery.enrol(" \t ", {RAW: row})),
        (InputError, "201 characters", lambda: gallery.enrol("a" * 201, {RAW: row})),
        (InputError, r"U\+0000", lambda: gallery.enrol("a\0b", {RAW: row})),
        (InputError, r"U\+000A", lambda: gallery.enrol("a\nb", {RAW: row})),
        (InputError, r"U\+DC80", lambda: gallery.enrol("a\udc80b", {RAW: row})),
        (InputError, r"U\+001B", lambda: gallery.search(row, kind="\x1b[2J")),
    ]
    for error, words, act in mistakes:
        with pytest.raises(error, match=words) as caught:
            act()
        assert one_line(caught)
        assert gallery.people() == [Entry("Ada", {RAW: 1})]
        np.testing.assert_array_equal(gallery.templates_of("Ada"), row)


def test_somebody_without_templates_of_the_kind_is_an_error(gallery):
    row = np.eye(1, DIMENSIONS, dtype=np.float32)
    gallery.enrol_all({"Ada": {RAW: row}, "Bob": {"fast": row, "paper": row}})
    for act in (lambda: gallery.search(row), lambda: gallery.templates_of("Bob")):
        with pytest.raises(GalleryError, match="Bob has templates of fast, paper only, and those of raw are searched") as caught:
            act()
        assert one_line(caught)
    with pytest.raises(GalleryError, match="Ada has templates of raw only, and those of paper are searched"):
        gallery.search(row, kind="paper")
    gallery.remove("Bob")
    assert gallery.search(row)[0][0].person == "Ada"


def test_one_kind_is_searched_and_never_another(gallery):
    """The better template is of the other kind: it must not count."""
    first, second = np.eye(2, DIMENSIONS, dtype=np.float32)
    people = {"Ada": {RAW: first[None], "fast": second[None]}, "Bob": {RAW: second[None], "fast": first[None]}}
    gallery.enrol_all(people)
    for indexed in (False, True):
        for kind, wanted in ((RAW, [("Ada", 1), ("Bob", 0)]), ("fast", [("Bob", 1), ("Ada", 0)])):
            [found] = gallery.search(first[None], kind=kind)
            assert [(match.person, round(match.score, 5)) for match in found] == wanted
        if not indexed:
            gallery.build_index(at_least=1)


def test_templates_are_added_to_somebody_all_at_once_and_nobody_else_changes(gallery, location):
    rng = np.random.default_rng(4)
    people = random_people(rng, 6)
    gallery.enrol_all(people)
    other, name = open_gallery(location), "person 3"
    for more in ({RAW: random_rows(rng, 2), "new": random_rows(rng, 3)}, {"new": random_rows(rng, 1)}):
        gallery.add(f" {name} ", more)
        for label, rows in more.items():
            people[name][label] = np.concatenate([people[name].get(label, rows[:0]), rows])
        assert other.people() == [
            Entry(one, {label: len(r) for label, r in sorted(people[one].items())}) for one in sorted(people)
        ]
        assert frozenset([RAW, "fast", "new"]) in other.label_sets()
        for one, templates in people.items():
            for label, rows in templates.items():
                np.testing.assert_array_equal(other.templates_of(one, kind=label), rows)
        assert_exact(gallery, people, random_rows(rng, 3), RAW, 4)
    with pytest.raises(GalleryError, match="nobody called Zoe"):
        gallery.add("Zoe", {RAW: random_rows(rng, 1)})
    with pytest.raises(InputError):
        gallery.add(name, {})
    assert gallery.remove(name) == sum(map(len, people.pop(name).values()))
    assert [entry.person for entry in other.people()] == sorted(people)
    other.close()


def test_the_sets_of_labels_follow_every_write(gallery, location):
    row = np.eye(1, DIMENSIONS, dtype=np.float32)
    other = open_gallery(location)
    assert gallery.label_sets() == {}
    other.enrol_all({"Ada": {RAW: row, "fast": row}, "Bob": {"fast": row, RAW: row}})
    assert [set(labels) for labels in gallery.label_sets()] == [{RAW, "fast"}]
    other.enrol("Cay", {RAW: row})
    assert gallery.label_sets()[frozenset([RAW])] == "Cay"
    other.remove("Cay")
    assert list(gallery.label_sets()) == [frozenset([RAW, "fast"])]
    other.close()


def test_another_embedder_is_an_error(gallery, location):
    for embedder, dimensions in (("other", DIMENSIONS), ("toy", 8), ("other", 8)):
        for act in (open_gallery, create_gallery):
            with pytest.raises(GalleryError, match=f"toy.*{DIMENSIONS}.*{embedder}.*{dimensions}") as caught:
                act(location, embedder=embedder, dimensions=dimensions)
            assert one_line(caught)
    assert open_gallery(location).embedder == "toy"


def test_opening_makes_nothing(location, tmp_path):
    for _ in range(2):
        with pytest.raises(GalleryError, match="there is no gallery") as caught:
            open_gallery(location, embedder="toy", dimensions=DIMENSIONS)
        assert one_line(caught)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_gallery_says_so(gallery):
    gallery.close()
    with pytest.raises(GalleryError):
        gallery.people()


# --- several at once, and kills -----------------------------------------------------------------


def test_of_many_who_enrol_the_same_person_one_does(location):
    row = np.eye(1, DIMENSIONS, dtype=np.float32)

    def enrol(_):
        gallery = create_gallery(location, embedder="toy", dimensions=DIMENSIONS)
        try:
            gallery.enrol("Ada", {RAW: row, "fast": row})
        except GalleryError as error:
            return str(error)
        finally:
            gallery.close()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(enrol, range(8)))
    assert results.count(None) == 1
    assert all("Ada is enrolled already" in result for result in results if result)
    assert open_gallery(location).people() == [Entry("Ada", {RAW: 1, "fast": 1})]


@pytest.fixture(scope="module")
def spawner():
    command = [sys.executable, enrol_until_killed.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def enrol_and_kill(spawner, location, prefix, seconds):
    """The names that a process printed until it was killed, so long after the first."""
    spawner.stdin.write(f"{location}\t{prefix}\n")
    spawner.stdin.flush()
    lines = [spawner.stdout.readline(), spawner.stdout.readline()]  # its number, and the first name: it is at work
    time.sleep(seconds)
    [pid] = [int(line.split()[1]) for line in lines if line.startswith("pid ")]
    os.kill(pid, signal.SIGKILL)
    while lines[-1] != "end\n":
        lines.append(spawner.stdout.readline())
    return [line.strip() for line in lines if not line.startswith(("pid ", "end"))]


@pytest.mark.kills
def test_killed_at_any_moment_each_enrolment_is_whole_or_not_there(gallery, location, spawner):
    rng, printed = random.Random(0), []
    for kill in range(5):
        printed += enrol_and_kill(spawner, location, f"run {kill}", rng.uniform(0, 0.3))
        again = open_gallery(location, embedder="toy", dimensions=DIMENSIONS)
        people = again.people()
        assert {entry.person for entry in people} >= set(printed)
        assert all(entry.templates == enrol_until_killed.TEMPLATES for entry in people)
        assert len(people) <= len(printed) + kill + 1  # each kill may meet one that was done and not printed yet
        again.enrol(f"after {kill}", {"raw": np.eye(3, DIMENSIONS), "toy": np.eye(2, DIMENSIONS)})
        printed.append(f"after {kill}")
        again.close()
    assert len(printed) > 12


# --- the folder ---------------------------------------------------------------------------------


@pytest.fixture(params=["", "lancedb://"], ids=["folder", "lance"])
def scheme(request):
    return request.param


@pytest.mark.parametrize("leftover", ["nothing", "lock", "draft", "table of other dimensions", "table without a version"])
def test_a_creation_that_was_killed_is_made_again(tmp_path, scheme, leftover):
    folder = tmp_path / "gallery"
    if leftover in {"lock", "draft"}:
        folder.mkdir()
        (folder / {"lock": "lock", "draft": ".gallery.json.0.part"}[leftover]).touch()
    if leftover == "table of other dimensions":
        create_gallery(scheme + str(folder), embedder="toy", dimensions=3)
        (folder / "gallery.json").unlink()
    if leftover == "table without a version":  # as a full disk leaves it
        for name in ("_versions", "_transactions"):
            (folder / "templates.lance" / name).mkdir(parents=True)
    gallery = create_gallery(scheme + str(folder), embedder="toy", dimensions=DIMENSIONS)
    gallery.enrol("Ada", {RAW: np.eye(1, DIMENSIONS, dtype=np.float32)})
    (folder / "gallery.json").unlink()
    with pytest.raises(GalleryError, match=r"gallery.json is missing"):  # templates are not thrown away
        create_gallery(scheme + str(folder), embedder="toy", dimensions=DIMENSIONS)
    with pytest.raises(GalleryError, match=r"gallery.json is missing"):  # a plain path is told apart by what is there
        create_gallery(str(folder), embedder="toy", dimensions=DIMENSIONS)


def test_a_folder_of_other_things_is_left_alone(tmp_path, scheme):
    (tmp_path / "photo.jpg").touch()
    for act in (open_gallery, create_gallery):
        with pytest.raises(GalleryError):
            act(scheme + str(tmp_path), embedder="toy", dimensions=DIMENSIONS)
        with pytest.raises(GalleryError):
            act(scheme + str(tmp_path / "photo.jpg"), embedder="toy", dimensions=DIMENSIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": FORMAT}', "damaged"),
        ('{"format": 3, "embedder": "toy", "dimensions": 3}', "format 3"),
        ('{"format": 3}', "update facesieve"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, scheme, content, words):
    folder = tmp_path / "gallery"
    create_gallery(scheme + str(folder), embedder="toy", dimensions=DIMENSIONS)
    (folder / "gallery.json").write_text(content.replace("FORMAT", "1" if scheme else "2"))
    with pytest.raises(GalleryError, match=words) as caught:
        open_gallery(str(folder))
    assert one_line(caught)


def test_a_folder_without_its_table_is_one_line(tmp_path):
    folder = tmp_path / "gallery"
    create_gallery(f"lancedb://{folder}", embedder="toy", dimensions=DIMENSIONS).close()
    (folder / "templates.lance").rename(tmp_path / "elsewhere")
    for location in (str(folder), f"lancedb://{folder}"):
        with pytest.raises(GalleryError) as caught:
            open_gallery(location)
        assert one_line(caught)
    with pytest.raises(GalleryError, match=r"templates.lance is missing"):
        create_gallery(str(folder), embedder="toy", dimensions=DIMENSIONS)


def test_a_plain_folder_is_none_of_lancedb_and_the_other_way_round(tmp_path):
    create_gallery(str(tmp_path / "plain"), embedder="toy", dimensions=DIMENSIONS).close()
    for act in (open_gallery, create_gallery):
        with pytest.raises(GalleryError, match="format 2, not 1; it is not LanceDB's: give the folder without lancedb://"):
            act(f"lancedb://{tmp_path / 'plain'}", embedder="toy", dimensions=DIMENSIONS)
    create_gallery(f"lancedb://{tmp_path / 'lance'}", embedder="toy", dimensions=DIMENSIONS).close()
    for act in (open_gallery, create_gallery):
        opened = act(str(tmp_path / "lance"), embedder="toy", dimensions=DIMENSIONS)
        assert isinstance(opened, gallery_lance.LanceGallery)


def test_small_files_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery_lance, "FILES", 3)
    gallery = create_gallery(f"lancedb://{tmp_path}", embedder="toy", dimensions=DIMENSIONS)
    rng = np.random.default_rng(3)
    people = random_people(rng, 12)
    for person, templates in people.items():
        gallery.enrol(person, templates)
    assert_exact(gallery, people, random_rows(rng, 5), "fast", 5)
    assert json.loads((tmp_path / "gallery.json").read_text())["embedder"] == "toy"
    assert gallery._table.stats()["fragment_stats"]["num_fragments"] <= 4


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "postgresql://somebody:s3cr%65t-word@127.0.0.1:1/db",
        "postgresql://somebody@127.0.0.1:1/db?password=s3cret-word",
        "postgresql://somebody:s3cret-word@/db?host=/nowhere",
        "postgresql://somebody:s3cret-word@host/db?gallery=not%20allowed",
        "postgresql://somebody:s3cret-word@127.0.0.1:port/db",
        "postgresql://somebody:s3cret-word@[::1/db",
        "postgresql://somebody:s3cret-word@127.0.0.1:1/db?no_such_option=1",
        "mysql://somebody:s3cret-word@host/db",
    ],
)
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(location):
    with pytest.raises(FacesieveError) as caught:
        open_gallery(location)
    assert one_line(caught)
    assert "cret-word" not in str(caught.value)
    assert "s3cr%65t" not in str(caught.value)


def test_a_folder_by_its_url(tmp_path):
    folder = tmp_path / "my gallery"
    create_gallery(str(folder), embedder="toy", dimensions=DIMENSIONS).close()
    again = open_gallery("file://" + str(folder).replace(" ", "%20"))
    assert (again.embedder, again.where) == ("toy", str(folder))


def test_errors_say_their_place_apart_from_what_is_wrong(gallery, location):
    with pytest.raises(GalleryError) as caught:
        gallery.remove("Bob")
    assert caught.value.where == gallery.where
    assert caught.value.what == "nobody called Bob is enrolled"
    assert gallery.where not in caught.value.advice


@pytest.mark.parametrize("location", ["", " ", "s3://bucket/gallery"])
def test_no_place_for_a_gallery(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (open_gallery, create_gallery):
        with pytest.raises(InputError, match="give a folder or postgresql://") as caught:
            act(location, embedder="toy", dimensions=DIMENSIONS)
        assert one_line(caught)
    assert list(tmp_path.iterdir()) == []


def test_without_the_lancedb_extra(monkeypatch, tmp_path):
    create_gallery(f"lancedb://{tmp_path / 'old'}", embedder="toy", dimensions=DIMENSIONS).close()
    monkeypatch.setitem(sys.modules, "lancedb", None)
    for act in (open_gallery, create_gallery):
        for location in (str(tmp_path / "old"), f"lancedb://{tmp_path / 'old'}"):
            with pytest.raises(MissingExtraError, match=r"facesieve\[lancedb\]"):
                act(location, embedder="toy", dimensions=DIMENSIONS)
    with pytest.raises(MissingExtraError, match=r"facesieve\[lancedb\]"):
        create_gallery(f"lancedb://{tmp_path / 'new'}", embedder="toy", dimensions=DIMENSIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_without_the_postgres_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "facesieve.galleries.postgres", raising=False)
    with pytest.raises(MissingExtraError, match=r"facesieve\[postgres\]"):
        open_gallery("postgresql://localhost/db")


def test_back_ends_are_imported_when_they_are_used():
    code = "from facesieve.galleries import open_gallery, GALLERIES; import sys; len(GALLERIES); "
    code += "print({'lancedb', 'psycopg', 'pyarrow', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# --- from one to another --------------------------------------------------------------------------


def test_a_gallery_is_copied_to_another_back_end(gallery, location, tmp_path):
    rng = np.random.default_rng(5)
    people, calibration = random_people(rng, 20, some=("paper",)), Calibration(0.3, 1e-3, RAW, 1000)
    gallery.enrol_all(people)
    gallery.calibrate(calibration)
    copies = [f"lancedb://{tmp_path / 'lance'}", str(tmp_path / "plain")]
    for source, target in zip([location, *copies], copies, strict=False):
        assert copy_gallery(source, target) == sum(len(rows) for templates in people.values() for rows in templates.values())
        copy = open_gallery(target, embedder="toy", dimensions=DIMENSIONS)
        assert (copy.people(), copy.calibrations()) == (gallery.people(), [calibration])
        for person, templates in people.items():
            for label, rows in templates.items():
                np.testing.assert_array_equal(copy.templates_of(person, kind=label), rows)
        with pytest.raises(GalleryError, match="people are enrolled here already"):
            copy_gallery(source, target)
        assert copy.people() == gallery.people()


def test_a_gallery_is_not_copied_over_one_of_another_embedder(gallery, location, tmp_path):
    create_gallery(str(tmp_path / "other"), embedder="other", dimensions=DIMENSIONS).close()
    with pytest.raises(GalleryError, match="made with other"):
        copy_gallery(location, str(tmp_path / "other"))
    assert copy_gallery(location, str(tmp_path / "nobody")) == 0
