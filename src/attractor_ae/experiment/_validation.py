"""Reading and validation of TOML files; an error is one line."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from attractor_ae._errors import AttractorError, unknown_name

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of a TOML file; true and "3" are not accepted as integers, lists become tuples."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise AttractorError(f"{path}: no such file; give the path of a TOML config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AttractorError(f"{path}: cannot be read ({error}); give a TOML text file") from None
    except tomllib.TOMLDecodeError as error:
        raise AttractorError(f"{path}: is not valid TOML: {error}") from None


def validated(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Return values as a pydantic model; error messages begin with ``source``."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise AttractorError(f"{source}: {_explained(model, error)}") from None


def _explained(model: type[BaseModel], error: ValidationError) -> str:
    # An unknown key comes first: its misspelling may be why another key is missing.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            *sections, name = first["loc"]
            known: Any = model
            for section in sections:
                known = known.model_fields[section].annotation
            kind = f"key in [{'.'.join(map(str, sections))}]:" if sections else "section"
            return str(unknown_name(kind, str(name), known.model_fields))
        case "missing":
            return f"{key} is missing; set it"
        case "value_error":
            reason = first["msg"].removeprefix("Value error, ")
            return f"{key}: {reason}" if key else reason
        case "literal_error":
            allowed = (
                first.get("ctx", {})["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            )
            return f"{key}: {unknown_name('value', str(first['input']), allowed)}"
        case "tuple_type":
            return f"{key} = {first['input']!r}: must be a list of names, e.g. ['faces', 'photos']"
        case _:
            reason = first["msg"].removeprefix("Input ")
            return f"{key} = {first['input']!r}: {reason}"
