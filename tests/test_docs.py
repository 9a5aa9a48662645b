"""The documentation: pages, names, commands and code blocks are those of the package."""

import shlex
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt

import attractor_ae
from attractor_ae.cli import app

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def commands(page):
    """The commands in indented blocks of a page, without their program."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    shell = "".join(t.content for t in tokens if t.type == "code_block").replace("\\\n", " ")
    for line in shell.splitlines():
        words = shlex.split(line, comments=True) if line.startswith("attractor-ae ") else []
        if words:
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_these_options(page):
    for name, *arguments in commands(page):
        command = typer.main.get_command(app)
        words = [name, *arguments]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context(name, words)  # raises on an unknown command or option


def test_every_page_is_in_the_menu():
    menu = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    written = [*PAGES, *DOCS.glob("*.ipynb")]
    assert [page.name for page in written if f": {page.name}\n" not in menu] == []


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    named = {line.rsplit(".", 1)[1] for line in page.splitlines() if line.startswith(":::")}
    assert named == set(attractor_ae.__all__)


def test_the_attractor_of_the_first_page_is_a_fixed_point(capsys):
    tokens = MarkdownIt().parse((DOCS / "index.md").read_text(encoding="utf-8"))
    (block,) = [t.content for t in tokens if t.type == "fence" and t.info == "python"]
    exec(block, {})
    assert float(capsys.readouterr().out.split("(")[1].split(",")[0]) < 1e-6
