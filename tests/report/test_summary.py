"""A report begins with three sentences made from its numbers, and can be read on a phone."""

import shutil

import pytest
from test_checks import CLEAN, N, attack, cell, record

from facesieve.report.checks import checks
from facesieve.report.pages.html import html
from facesieve.report.pages.markdown import markdown
from facesieve.report.summary import glance, summary
from facesieve.report.tables import tables_of
from facesieve.report.text import worded

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ("robust", "gentle", "jpeg, quality 75", "jpeg, quality 50", "gaussian-blur", "block-mean-bicubic, scale 4")


def tried(names=("robust",), *, view="gradient", complete=True):
    """Attacked with 8/255 through each defence; the first lets 60 of 120 stand, each other 2 fewer."""
    attacks = [attack("pgd")] + [attack(f"EOT, eps 8/255, through {name}", view=view) for name in names]
    cells = [CLEAN, cell(0, attack="pgd", quantisation="uint8")]
    for number, name in enumerate(names):
        cells += [
            cell(114 - number, defence=name, quantisation="uint8"),
            cell(60 - 2 * number, attack="EOT, eps 8/255", defence=name, quantisation="uint8"),
        ]
    return tables_of(record(cells, attacks, complete=complete))


def test_three_sentences_with_the_numbers_and_their_intervals():
    clean, attacked, trust = summary(tried(), 2)
    assert clean.startswith(f"Of {N} clean images, 100.0 % [88.4, 100.0] without a defence and 95.0 % [")  # of 30 people
    assert clean.endswith("] behind robust get the right one of 30 names.")
    assert attacked.startswith("The worst attacks that were tried leave, at 8/255, 50.0 % [")
    assert attacked.endswith("] behind robust and 0.0 % [0.0, 11.6] without a defence.")
    assert trust == "1 of 2 attacks knew the defence; 2 warnings below."


def test_many_defences_are_summed_up():
    clean, attacked, _ = summary(tried(NAMES), 0)
    assert "from 90.8 % (block-mean-bicubic, scale 4) to 95.0 % (robust) behind 6 defences" in clean
    assert "50.0 % [" in attacked
    assert "] behind robust (the best) and 0.0 % [0.0, 11.6] without a defence" in attacked


def test_a_defence_that_no_attack_knew_is_not_the_best_beside_one_that_one_did():
    known = tried().record
    cells = [cell(114, defence="gentle", quantisation="uint8"), cell(90, attack="pgd", defence="gentle", quantisation="uint8")]
    both = tables_of(known.model_copy(update={"cells": (*known.cells, *cells)}))
    assert "at 8/255, 50.0 % [" in summary(both, 0)[1]
    assert "gentle" not in summary(both, 0)[1]
    shown = glance(both)
    (left,) = (line[2] for line in shown.rows if line[0] == "gentle")
    assert left.startswith("75.0 [")
    assert left.endswith("] (unaware)")
    assert shown.note.endswith("so it stands beside no other.")
    assert not any("unaware" in line[2] for line in shown.rows if line[0] != "gentle")
    assert "naware" not in str(glance(tried()))


def test_what_was_not_done_is_said():
    bare = tables_of(record([CLEAN]))
    assert summary(bare, 0)[1:] == ["Nothing was attacked.", "What is left to an attacker was not measured."]
    assert glance(bare) is None
    cells = [CLEAN, cell(N, defence="robust", quantisation="uint8"), cell(9, attack="pgd", defence="robust")]
    assert summary(tables_of(record(cells, [attack("pgd")], complete=False)), 1)[2] == (
        "No attack knew a defence: one that does leaves less, and the run is not finished; 1 warning below."
    )


def test_the_pages_begin_with_it_and_have_a_table_at_a_glance():
    tables = tried()
    said = summary(tables, len(checks(tables)))
    text, page = markdown(tables), html(tables)
    for sentence in said:
        assert text.index(sentence) < text.index("Read this first") < text.index("## What is left, at a glance")
        assert page.index(sentence) < page.index("Read this first") < page.index("What is left, at a glance")
    found = glance(tables)
    assert found.header == ("defence", "clean, %", "8/255, %")
    assert [row[0] for row in found.rows] == ["none", "robust"]
    assert found.rows[1][2].startswith("50.0 [")


def test_no_column_is_empty():
    for tables in (tried(), tried(NAMES), tables_of(record([CLEAN]))):
        for table in worded(tables):
            for column in zip(*table.rows, strict=True):
                assert set(column) != {"–"}, table.title


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
def test_on_a_phone_nothing_is_wider_than_the_page_and_no_label_covers_another(tmp_path):
    """At 390 pixels; labels that the chart itself places: ticks, numbers of points, names below."""
    from playwright.sync_api import sync_playwright

    (tmp_path / "report.html").write_text(html(tried(NAMES)))
    boxes = """[...document.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")].map(text => {
        const box = text.getBoundingClientRect(); return [text.textContent, box.left, box.top, box.right, box.bottom]}))"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        charts = page.evaluate(boxes)
        browser.close()
    assert charts
    for texts in charts:
        for number, (one, left, top, right, bottom) in enumerate(texts):
            for other, x, y, end, low in texts[number + 1 :]:
                apart = right <= x + 1 or end <= left + 1 or bottom <= y + 2 or low <= top + 2
                assert apart, (one, other)
        assert not any(text.isdigit() and int(text) > 100 for text, *_ in texts)
