"""The layout of the package: budgets, direction of imports, and what does not import PyTorch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import attractor_ae

ROOT = Path(attractor_ae.__file__).parent
PLUMBING = {path.stem for path in ROOT.glob("_*.py")} - {"__init__", "__main__"}
# What each room may import, in addition to itself, private plumbing, and the public names.
MAY_IMPORT = {
    "core": {"conformal", "extractors"},
    "extractors": set(),
    "attractors": {"core"},
    "baselines": {"core", "conformal"},
    "conformal": set(),
    "losses": set(),
    "metrics": set(),
    "data": set(),
    "experiment (values)": {"core", "data", "metrics", "losses"},
    "training": {
        "core",
        "baselines",
        "conformal",
        "extractors",
        "losses",
        "data",
        "experiment (values)",
    },
    "reporting": {"core", "conformal", "data", "metrics", "experiment (values)"},
}
MAY_IMPORT["experiment"] = {*MAY_IMPORT, "training", "reporting"}
MAY_IMPORT["deploy"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
# A config, a run folder and a result are plain values that other rooms read.
VALUES = {"config", "run", "result", "trial_curve", "_validation"}


def module_files():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(("attractor_ae", *parts)).removesuffix(".__init__"), path


FILES = dict(module_files())


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attractor_ae"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


GRAPH = {name: set(imports(path)) - {name} for name, path in FILES.items()}


def room(module):
    _, first, *rest = (*module.split("."), "")
    return "experiment (values)" if first == "experiment" and rest[0] in VALUES else first


def lines(paths):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_the_method_is_short():
    assert lines((ROOT / "core").glob("*.py")) <= 1_150
    assert lines(ROOT.rglob("*.py")) <= 20_410


def test_no_module_imports_itself_through_others():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


def test_a_room_imports_only_from_those_below():
    for module, found in GRAPH.items():
        if room(module) in MAY_IMPORT:
            allowed = {room(module), "", *PLUMBING, *MAY_IMPORT[room(module)]}
            assert {room(other) for other in found} <= allowed, module


def test_plumbing_imports_no_room_but_the_method():
    for name in PLUMBING:
        found = {room(other) for other in GRAPH[f"attractor_ae.{name}"]}
        assert found <= PLUMBING | {"core", "conformal"}


HEAVY = "import sys; print(sorted({'torch', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)))"


@pytest.mark.parametrize(
    "code",
    [
        "import attractor_ae; attractor_ae.AttractorError; attractor_ae.preset('quick')",
        "from attractor_ae.experiment.suites import read_experiment; read_experiment('mnist')",
        "import attractor_ae._files, attractor_ae.data",
    ],
)
def test_no_torch_behind_configs_and_files(code):
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\n{HEAVY}"], check=True, capture_output=True, text=True
    )
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "quick", "--set", "training.epoch=1"], 2),
    ],
)
def test_no_torch_behind_help_and_errors_of_a_config(arguments, code):
    script = f"import atexit; atexit.register(lambda: exec({HEAVY!r}))\n"
    script += f"import sys; sys.argv[1:] = {arguments!r}\n"
    script += "from attractor_ae.cli import main; main()"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == code
    assert found.stdout.splitlines()[-1] == "[]"
