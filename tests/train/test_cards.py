"""What cards of trained weights say about the photographs: only what whoever trains has stated, and never more."""

import json
from pathlib import Path

import pytest

from facesieve.errors import InputError
from facesieve.train.cards import NOT_STATED, DataCard, Part, card
from facesieve.train.ddsa import train_ddsa
from facesieve.train.purifier import train_purifier
from facesieve.train.settings import DdsaTraining, PurifierTraining

ROOT = Path(__file__).parent.parent.parent
TINY = DdsaTraining(size=32, batch=2, held_out=2, warmup_steps=1, steps=1, patch=8)
STATED = """
what = "portraits from the town's archive"
terms = "CC BY 4.0"
attribution = ["The town"]
[[parts]]
name = "1950s"
photographs = 3
terms = "CC BY 4.0"
attribution = "A. Photographer"
"""


@pytest.fixture
def photos(sample_paths, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sample_paths:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def card_of(photos, out, **options):
    return json.loads(train_ddsa(photos, out, TINY, **options).with_suffix(".card.json").read_text())


def test_terms_that_nobody_stated_are_not_stated(photos, tmp_path):
    lines = []
    made = card_of(photos, tmp_path / "run", report=lines.append)
    assert made["terms"] == NOT_STATED
    assert "attribution" not in made
    assert "parts" not in made
    assert "terms not stated (--data-card or DATA.toml says them)" in lines[0].what  # before the training, not after it


@pytest.mark.parametrize("beside", [True, False])
def test_the_card_says_what_was_stated(photos, tmp_path, beside):
    file = photos / "DATA.toml" if beside else tmp_path / "other.toml"
    file.write_text(STATED)
    made = card_of(photos, tmp_path / "run", data_card=None if beside else file)
    assert made["data"] == "5 faces to train on, 1 held out; portraits from the town's archive, aligned to the template"
    assert (made["terms"], made["attribution"]) == ("CC BY 4.0", ["The town", "A. Photographer"])
    assert made["parts"] == [{"name": "1950s", "photographs": 3, "terms": "CC BY 4.0", "attribution": "A. Photographer"}]


def test_the_file_that_is_given_comes_before_the_one_beside_the_photographs(photos, tmp_path):
    (photos / "DATA.toml").write_text(STATED)
    (tmp_path / "other.toml").write_text('terms = "CC0"')
    assert DataCard.of(tmp_path / "other.toml", photos).terms == "CC0"


def test_of_several_folders_the_terms_of_each_hold(tmp_path):
    for name, text in (("a", STATED), ("b", 'terms = "CC0"'), ("c", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "DATA.toml").write_text(text)
    both = DataCard.of(None, tmp_path / "a", tmp_path / "b")
    assert (both.what, both.terms) == ("portraits from the town's archive and photographs of faces", "CC BY 4.0; and: CC0")
    assert both.parts == (Part(name="1950s", photographs=3, terms="CC BY 4.0", attribution="A. Photographer"),)
    assert DataCard.of(None, tmp_path / "b", tmp_path / "c").terms == f"CC0; and: {NOT_STATED}"


@pytest.mark.parametrize(
    ("begun", "terms"),
    [
        ({"terms": "CC BY 4.0", "attribution": ["B"]}, "CC BY 4.0"),
        ({"terms": "research only"}, "CC BY 4.0; and: of the weights it began from, research only"),
        ({"licence": "MIT"}, "CC BY 4.0; and: of the weights it began from, MIT"),
        ({}, f"CC BY 4.0; and: of the weights it began from, {NOT_STATED}"),
    ],
)
def test_weights_that_began_from_others_keep_their_terms(begun, terms):
    made = DataCard(terms="CC BY 4.0", attribution=("A",)).begun_from(begun)
    assert made.terms == terms
    assert made.attribution == ("A", *begun.get("attribution", ()))


def test_a_purifier_keeps_the_terms_of_its_prior(photos, tmp_path, sample_paths):
    from facesieve.train.prior import train_prior
    from facesieve.train.settings import PriorTraining

    small = {"size": 32, "batch": 2, "held_out": 2, "warmup_steps": 1}
    start = train_prior(photos, tmp_path / "prior", PriorTraining(**small, channels=(16, 32), attention_levels=0, images=2))
    (tmp_path / "other.toml").write_text('terms = "CC0"')
    many = tmp_path / "many"
    many.mkdir()
    for path in sample_paths:
        for number in (1, 2):
            (many / f"{number}-{path.name}").write_bytes(path.read_bytes())
    settings = PurifierTraining(**small, steps=1, attacked=1, measured=1)
    folder = train_purifier(
        many, tmp_path / "run", settings, start=start, recognisers=["dlib"], data_card=tmp_path / "other.toml"
    )
    assert json.loads((folder / "card.json").read_text())["terms"] == f"CC0; and: of the weights it began from, {NOT_STATED}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("licence = 'MIT'", "licence: unknown key"),
        ("terms = 3", "terms: "),
        ("[[parts]]\nname = 'a'", "parts.1.terms: "),
        ("=", "not a TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_before_anything_is_trained(photos, tmp_path, text, said):
    (photos / "DATA.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        train_ddsa(photos, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_the_command_takes_the_file(facesieve, photos, tmp_path):
    (tmp_path / "mine.toml").write_text(STATED)
    settings = [part for name, value in TINY.model_dump().items() if name != "noise" for part in ("--set", f"{name}={value}")]
    command = ["train", "ddsa", "--data", photos, "-o", tmp_path / "run", "--data-card", tmp_path / "mine.toml", *settings]
    done = facesieve(*command)
    assert done.code == 0, done.err
    assert "terms CC BY 4.0" in done.out.splitlines()[0]
    assert json.loads((tmp_path / "run" / "ddsa.card.json").read_text())["terms"] == "CC BY 4.0"
    missing = facesieve(*command[:-1], "seed=1", "--data-card", tmp_path / "nothing.toml")
    assert missing.code == 2
    assert len(missing.err.splitlines()) == 1


def test_the_card_of_the_free_photographs_names_all_of_them_and_who_asks_for_it():
    stated = DataCard.read(ROOT / "docs" / "data" / "free.toml")
    assert sum(part.photographs for part in stated.parts) == 3560
    made = card({"name": "a"}, stated, TINY, 0, {}, "none")
    assert len(made["attribution"]) == 4
    assert not any(word in json.dumps(made).lower() for word in ("research", "non-commercial"))
