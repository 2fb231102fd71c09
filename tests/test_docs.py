"""The documentation is true: its Python code runs, its tables agree with the code, its links lead somewhere."""

import re
import shutil
from pathlib import Path

import pytest
import typer

from facesieve.cli.app import app
from facesieve.purify import PRESETS
from facesieve.specs import RETIRED_PRESETS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted((*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("deploy/*.md"))))
ELSEWHERE = {"edge.md"}  # run in test_edge.py, with the graphs that it reads
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page):
    """Each block with as many empty lines before it as the page has, so that a traceback names the page's line."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in PYTHON.finditer(text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page) and page.name not in ELSEWHERE], ids=lambda page: page.name
)
def test_the_python_code_of_a_page_runs(page, tmp_path, monkeypatch, sample_paths):
    """In order, in one namespace, in a folder that holds ``photo.jpg`` and nothing else."""
    shutil.copy(sample_paths[0], tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


def test_there_is_code_to_run():
    assert sum(len(python_blocks(page)) for page in PAGES) >= 10


def test_the_table_of_presets_is_that_of_the_code():
    rows = []
    for preset in PRESETS.values():
        restorations = "; ".join(f"{r.name}: {r.operator.name}" for r in preset.restorations)
        rows.append(f"| `{preset.name}` | {restorations} | {preset.evaluations} |")
    table = re.search(r"^\| preset \|.*?\n\|[-|]+\n(.*?)\n\n", (ROOT / "docs" / "concepts.md").read_text(), re.M | re.S)
    assert table[1].splitlines() == rows


def test_the_table_of_retired_presets_is_that_of_the_code():
    rows = [
        f"| `{name}` | `{successor}` | `experiments/profiles/{name}.toml` | `{weights}` |"
        for name, (successor, weights) in RETIRED_PRESETS.items()
    ]
    assert "\n".join(rows) in (ROOT / "docs" / "concepts.md").read_text()
    for name, (_, weights) in RETIRED_PRESETS.items():
        assert (ROOT / "experiments" / "profiles" / f"{name}.toml").exists()
        assert not (ROOT / "models").exists() or (ROOT / weights / "card.json").exists()


def test_every_command_and_option_is_on_its_page_and_no_other():
    def walk(command, path):
        if hasattr(command, "commands"):
            return [found for name, each in command.commands.items() for found in walk(each, f"{path} {name}")]
        return [(path, {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")})]

    commands = walk(typer.main.get_command(app), "facesieve")
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert all(path in page for path, _ in commands)
    options = set().union(*(options for _, options in commands)) | {"--help", "--version"}
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", page)) == options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}, anchor
