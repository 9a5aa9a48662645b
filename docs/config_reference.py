"""Write docs/config.md, the reference of all keys, and the files of configs/ (``make configs``)."""

import ast
import inspect
import json
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from attractor_ae.experiment import config as module
from attractor_ae.experiment.config import PRESETS, ExperimentConfig, preset_values
from attractor_ae.experiment.suites import published

HEAD = """\
# Config keys

Generated from the code by `make configs`. A config is a TOML file with the four sections below. A
key that it does not set has the value of the column "released code". In a file that begins with
`base = "default"` (or "quick", "photographs"), it has the value of that preset instead; where a
preset's column is empty, the value is that of the released code. `--set SECTION.KEY=VALUE`
overrides a key. Terms: [glossary.md](glossary.md).
"""


def reference() -> str:
    """Return the page as Markdown."""
    presets = {name: preset_values(name) for name in PRESETS if name != "paper"}
    parts = [HEAD.rstrip()]
    for section, field in ExperimentConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        described = descriptions(model)
        title = (inspect.getdoc(model) or "").split(": ", 1)[-1].rstrip(".")
        parts.append(f"\n## [{section}]: {title}\n")
        parts.append(
            f"| key | released code | {' | '.join(f'`{name}`' for name in presets)} | meaning |"
        )
        parts.append("|---|---|" + "---|" * len(presets) + "---|")
        for key, about in model.model_fields.items():
            default = "must be given" if about.is_required() else shown(about.default)
            cells = [shown(values.get(section, {}).get(key)) for values in presets.values()]
            choices = ", ".join(f'"{value}"' for value in allowed(about.annotation))
            meaning = " ".join(
                filter(None, [described.get(key, ""), choices and f"One of {choices}."])
            )
            parts.append(f"| `{key}` | {default} | {' | '.join(cells)} | {meaning} |")
    return "\n".join(parts) + "\n"


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each attribute of a section."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    [section] = [node for node in tree.body if getattr(node, "name", "") == model.__name__]
    assert isinstance(section, ast.ClassDef)
    found = {}
    for key, below in zip(section.body, section.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(key.target, ast.Name)
            found[key.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def allowed(annotation: object) -> list[object]:
    """Return the values of a Literal."""
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return [value for value in values if not isinstance(value, bool)]


def shown(value: object) -> str:
    """Return a value as in TOML; nothing for a key that a preset does not set."""
    if value is None:
        return ""
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def write_configs(folder: Path) -> None:
    """Write a TOML file per published experiment."""
    for name, config in published().items():
        text = "# Generated from the published suites by `make configs`.\n\n" + config.to_toml()
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_configs(Path(__file__).parents[1] / "configs")
    Path(__file__).with_name("config.md").write_text(reference(), encoding="utf-8")
