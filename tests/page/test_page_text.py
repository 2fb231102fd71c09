"""What the page says: who is who, and nothing that a name could smuggle in."""

import html

import numpy as np
import pytest
from markdown_it import MarkdownIt

from facesieve.page.actions import Named, Shown
from facesieve.page.text import plain, sentence, table, tamper

PIXEL = np.zeros((1, 1, 3), np.uint8)


def shown(*names, shortfall=None):
    return Shown(PIXEL, PIXEL, [], [[Named(*name) for name in names]], [0.25], shortfall)


@pytest.mark.parametrize(
    "text",
    ["my_photo_1.jpg", "![x](http://host/pixel.png)", "<script>1</script>", "**a** `b` ~c~", "a & b; &lt;", "C:\\x", "# 1."],
)
def test_a_name_is_shown_as_it_is(text):
    rendered = MarkdownIt("commonmark").render(plain(text))
    assert rendered == f"<p>{html.escape(text, quote=False)}</p>\n"


def test_the_table_has_a_row_for_each_picture_and_a_name_cannot_make_more():
    rows = table(shown(("as it came", "A|B\nC", 0.5, None), ("purified", "D", 0.25, False)))
    parsed = MarkdownIt("commonmark").enable("table").render(rows)
    assert parsed.count("<tr>") == 3
    assert "<td>A|B C</td>" in parsed
    assert "<td>D, below the threshold</td>" in parsed
    assert "<td>0.25</td>\n<td>0.25</td>" in parsed


def test_the_table_says_which_templates_are_searched():
    names = ("as it came", "Ann", 0.5, None, "raw"), ("purified", "Ann", 0.25, None, "robust-1")
    render = MarkdownIt("commonmark").enable("table").render
    assert "<p>Purified faces are compared with templates that were made behind the same shield (robust-1).</p>" in render(
        table(shown(*names))
    )
    short = render(table(shown(names[0], ("purified", "Ann", 0.25, None, "raw"), shortfall="<b>Bob</b> has none")))
    assert "<p>Purified faces are compared with raw templates: &lt;b&gt;Bob&lt;/b&gt; has none. Remove people and" in short
    assert "compared" not in table(shown(("as it came", None, None, None), ("purified", None, None, None)))


def test_that_a_default_threshold_decides_is_said():
    names = ("as it came", "Ann", 0.5, True, "raw"), ("purified", "Ann", 0.25, False, "gentle-1", 0.43)
    said = MarkdownIt("commonmark").enable("table").render(table(shown(*names)))
    assert (
        "Below 0.43 a face is unknown, by default: one of your own is chosen by <code>facesieve gallery calibrate</code>." in said
    )
    assert "by default" not in table(shown(names[0], ("purified", "Ann", 0.25, False, "gentle-1")))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([("Ann", None), ("Bob", None), ("Ann", None)], "The attack makes Ann into Bob; the shield gives the name back."),
        ([("Ann", None), ("Bob", None), ("Cy", None)], "The attack makes Ann into Bob; the shield does not give the name back."),
        (
            [("Ann", True), ("Ann", False), ("Ann", True)],
            "The attack makes Ann unknown; the shield gives the name back.",
        ),
        ([("Ann", None), ("Ann", None), ("Ann", None)], "The attack did not change the name: give it more ε or more steps."),
    ],
)
def test_the_sentence_says_what_came_of_the_attack(names, said):
    whats = ("as it came", "attacked", "purified")
    assert sentence(shown(*((what, who, 0.5, known) for what, (who, known) in zip(whats, names, strict=True)))) == said


def test_the_sentence_without_an_attack_and_without_a_gallery():
    same = shown(("as it came", "Ann", 0.9, None), ("purified", "Ann", 0.8, None))
    assert sentence(same) == "Purified. Nearest in the gallery: Ann, before and after."
    other = shown(("as it came", "Ann", 0.9, None), ("purified", "Bob", 0.8, None))
    assert sentence(other) == "Purified. Nearest in the gallery: Ann before, Bob after."
    nobody = shown(("as it came", None, None, None), ("purified", None, None, None))
    assert "nobody in a gallery" in sentence(nobody)


def of_faces(*faces, scores=None, preset="robust"):
    """What is shown of several faces: each (before, known, after, known)."""
    names = [[Named("as it came", one, 0.5, sure), Named("purified", other, 0.5, surely)] for one, sure, other, surely in faces]
    return Shown(PIXEL, PIXEL, [], names, scores or [0.1] * len(faces), preset=preset)


def test_each_of_several_faces_is_named_and_taken_for_somebody_only_above_the_threshold():
    faces = ("Ann", True, "Ann", True), ("Ann", True, "Bob", False), ("Cy", None, "Cy", None), ("Ann", False, "Bob", True)
    assert sentence(of_faces(*faces)) == (
        "4 faces purified, the largest first: face 1 is taken for Ann; face 2 is unknown (without the shield Ann); "
        "face 3 is nearest to Cy; face 4 is taken for Bob (without the shield unknown)."
    )
    assert sentence(of_faces(faces[0])) == "Purified. The face is taken for Ann."
    assert sentence(of_faces(faces[1])) == "Purified. The face is unknown (without the shield Ann)."


@pytest.mark.parametrize(
    ("preset", "score", "colour"),
    [
        ("robust", 0.05, "green"), ("robust", 0.18, "green"), ("robust", 0.3, "darkorange"), ("robust", 0.6, "red"),
        ("gentle", 0.02, "green"), ("gentle", 0.05, "darkorange"), ("gentle", 0.18, "red"), ("paper", 0.3, "gray"),
    ],
)  # fmt: skip
def test_the_tamper_score_is_a_sentence_with_a_colour_that_the_preset_s_own_scores_set(preset, score, colour):
    said = tamper(of_faces(("Ann", None, "Ann", None), scores=[score], preset=preset))
    assert said.startswith(f'<span style="color: {colour}">●</span> <b>Tamper score {score:.2f}</b>: how far')
    assert said.endswith(".")
    of_two = tamper(of_faces(("Ann", None, "Ann", None), ("Bob", None, "Bob", None), scores=[0.01, score]))
    assert "of face 2" in of_two
