"""The documentation: pages, names, settings, commands and code blocks are those of the package.

Python blocks and blocks with commands of `attractor-ae` are run in the order of their page, in a
small prepared folder and with short trainings, unless a comment above says why not:

    <!-- not run: REASON -->

Commands of other programs are checked, not run: they install, train for hours or need a cluster.
"""

import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer
from at_terminal import invoke, options
from markdown_it import MarkdownIt
from small_models import FEW, FORM, SHORT, make_model, write_images

import attractor_ae
from attractor_ae import AttractorError, load, preset
from attractor_ae.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PROGRAMS = ("attractor-ae", "python", "make", "pip", "dask", "curl")
TINY = (
    "dataset.name=mnist5k",
    "dataset.nbr_of_samples_per_class=6",
    "dataset.calibration_fraction=0.5",
    "training.epochs=1",
    *FEW,
    "evaluation.out_datasets=['faces']",
)
OWN = TINY[1:]  # of a folder of images
FEATURES = ("dataset.calibration_fraction=0.5", "training.epochs=1", "evaluation.trials=2")
SHORTER = {
    'fit_model("parts", "parts.model")': 'fit_model("parts", "second.model")',
    'preset("default")': f"preset('default', {TINY})",
    '.toml")': f".toml', {TINY})".replace("'", '"', 1),
    "(8, 8))": f"(8, 8), epochs=1, overrides={SHORT})",
}


@dataclass(frozen=True)
class Block:
    """A Python or shell block of a page; ``why`` it is not run."""

    at: str
    python: bool
    text: str
    why: str | None

    def commands(self):
        """The commands, one list of words each; variables of the shell are filled in."""
        values = {}
        for line in self.text.replace("\\\n", " ").splitlines():
            if given := re.match(r"(\w+)=(['\"])(.*?)\2", line):
                values[given[1]] = given[3]
                continue
            for name, value in values.items():
                line = line.replace(f"${name}", value)
            if words := shlex.split(line, comments=True):
                yield words


def tokens(page):
    return MarkdownIt().parse(page.read_text(encoding="utf-8"))


def blocks(page):
    why = None
    for token in tokens(page):
        found = re.fullmatch(r"<!-- not run:(.*)-->\s*", token.content)
        at = f"{page.name}:{token.map[0] + 1}" if token.map else ""
        first = token.content.split(maxsplit=1)[:1]
        if token.info == "toml":
            tomllib.loads(token.content)
        shell = token.type == "code_block" and (
            (first and first[0] in PROGRAMS) or "$" in token.content
        )
        if (token.type == "fence" and token.info == "python") or shell:
            yield Block(at, not shell, token.content, why)
        why = found[1].strip() if found else None


BLOCKS = [block for page in PAGES for block in blocks(page)]
each_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.at)


def spans(page):
    """The code within sentences."""
    for token in tokens(page):
        for part in token.children or ():
            if part.type == "code_inline":
                yield part.content


def check_command(words, whole=True):
    """Raise if `attractor-ae` has no such command, option, value or setting."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if getattr(command, "commands", {}) and words and not words[0].startswith("-"):
        raise AssertionError(f"there is no command {words[0]}")
    try:
        context = command.make_context("attractor-ae", [*words])
    except Exception as error:
        if whole or type(error).__name__ not in ("MissingParameter", "Exit", "NoArgsIsHelpError"):
            raise
    else:
        check_settings(context.params.get("settings") or ())


def check_settings(settings):
    """Raise if neither kind of network takes them."""
    features = "=features" in "".join(settings)
    preset("photographs" if features else "default", settings)


@each_block
def test_what_a_block_names_exists(block):
    assert block.why is None or len(block.why.split()) >= 2
    if block.python:
        compile(block.text, block.at, "exec")
        return
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    benchmarks = "".join(path.read_text() for path in ROOT.glob("benchmarks/*.py"))
    for program, *words in block.commands():
        assert program in PROGRAMS
        if program == "attractor-ae":
            check_command(words)
        elif program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE)
        elif program == "pip":
            assert words[0] == "install"
            assert re.search(r"\[(.*)\]", words[1])[1] in extras
        elif program == "python":
            assert (ROOT / words[0]).is_file()
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option}"' in benchmarks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_settings_within_sentences_exist(page):
    for text in spans(page):
        if text.startswith("attractor-ae "):
            check_command(shlex.split(text)[1:], whole=False)
        setting = re.fullmatch(
            r"(?:--set )?((?:dataset|model|training|evaluation)\.(?!py$)\w+)(=\S+)?", text
        )
        if setting and setting[1] not in REMOVED:
            values = preset("default").model_dump()
            section, key = setting[1].split(".")
            assert key in values[section], text
            if setting[2]:
                check_settings([setting[1] + setting[2]])


REMOVED = {"training.feedback", "model.initialization", "training.weight_averaging"}


def test_removed_settings_are_removed():
    for setting in REMOVED:
        with pytest.raises(AttractorError, match=setting.split(".")[1]):
            preset("default", [f"{setting}=1"])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, sweeps_train_here):
    """A folder with what the pages take as given."""
    folder = tmp_path_factory.mktemp("docs")
    images = load("mnist5k", "train", per_class=18, image_format=FORM)
    rows = np.arange(len(images)).reshape(10, 18)
    known, calibration, new = (images.take(rows[:, i : i + 6].ravel()) for i in (0, 6, 12))
    for name, part in {"parts": known, "clothes": known, "pets": known, "parts-new": new}.items():
        names = [f"{part.classes[label]}/{i}.png" for i, label in enumerate(part.labels)]
        write_images(folder / name, part.images, names)
    write_images(folder / "new", new.images[:9])
    write_images(folder / "others", 255 - new.images[:9])
    for name in ("parts.model", "digits.model"):
        make_model(known, calibration).save(folder / name)
    (folder / "pets.toml").write_text("[dataset]\nname = 'pets'\n")
    shutil.copytree(ROOT / "configs", folder / "configs")
    result = invoke("demo", "--out", folder / "demo", *options(TINY))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def fitted():
    """The commands `fit` that have been run."""
    return []


@pytest.mark.slow  # trains, exports and draws
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, workplace, fitted, tmp_path, monkeypatch):
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attractor-ae"])
    monkeypatch.setattr("attractor_ae.deploy.attractors._SIDE", 6)
    monkeypatch.setattr("attractor_ae.training.loop._STEPS", 4)
    monkeypatch.setattr("attractor_ae.deploy.fit._FEATURE_EPOCHS", 1)
    monkeypatch.setattr("attractor_ae.deploy.fit._FEWEST", 1)
    names = {}
    for block in blocks(page):
        if block.why is not None:
            continue
        if block.python:
            text = block.text
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            exec(compile(text, block.at, "exec"), names)
            continue
        for program, *words in block.commands():
            if program == "attractor-ae":
                if words[0] == "fit":  # once, in place of the prepared model
                    if words in fitted:
                        continue
                    fitted.append(words)
                    Path(words[-1]).unlink(missing_ok=True)
                own = words[0] == "train" and words[1] in ("clothes/", "pets.toml")
                short = words[0] in ("demo", "train", "sweep", "reproduce")
                if words[:2] == ["train", "photographs"]:
                    words, short = [*words, *options(FEATURES)], False
                result = invoke(*words, *options((OWN if own else TINY) if short else ()))
                assert result.exit_code == 0, f"{block.at}: {words}\n{result.output}"
    plt.close("all")


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    written = [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]
    assert [page.name for page in written if f": {page.name}\n" not in menu] == []


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    named = {line.rsplit(".", 1)[1] for line in page.splitlines() if line.startswith(":::")}
    assert named == set(attractor_ae.__all__)


def test_the_attractor_of_the_first_page_is_a_fixed_point(capsys):
    (block,) = [block for block in blocks(DOCS / "index.md") if block.python]
    exec(block.text, {})
    assert float(capsys.readouterr().out.split("(")[1].split(",")[0]) < 1e-6
