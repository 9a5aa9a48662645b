"""Conversion of runs of the original scripts (docs/from-the-original.md).

A results folder of the original has ``cfg.toml`` and ``checkpoints/last_model.pth``. The layers
differ only in their names: the original and this package both flatten a code channels first, and
store the weights of a transposed convolution as (in, out, height, width).
"""

import hashlib
import io
import json
import re
import tomllib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae._fast_layers import activation_function
from attractor_ae._files import write_json, write_tensors, write_text
from attractor_ae.data import CATALOGUE, data_root
from attractor_ae.experiment._validation import read_toml
from attractor_ae.experiment.config import ExperimentConfig, TrainingConfig
from attractor_ae.experiment.run import Run, environment
from attractor_ae.experiment.suites import published
from attractor_ae.training import build_network
from attractor_ae.training.history import history_text

CONFIG_FILE = "cfg.toml"
WEIGHTS_FILE = "checkpoints/last_model.pth"

ORIGINAL_LAYERS = read_toml(Path(__file__).with_name("original_layers.toml"))
"""Name of each layer in the original -> name in this package, by ``model.type``."""

_WEIGHTS = [f"{layer}.weight" for layers in ORIGINAL_LAYERS.values() for layer in layers]

# An activation with weights (PReLU) is shared by all layers; the original's file repeats it for
# each layer.
_ACTIVATION_AGAIN = re.compile(r"(?:encoder_\w+|decoder_\w+|classifier)\.(activation)_\d(\.\w+)")

_FROM_THE_ORIGINAL = f"give a results folder of the original, with {CONFIG_FILE} and {WEIGHTS_FILE}"


def import_run(
    folder: str | Path,
    target: str | Path,
    *,
    seed: int | None = None,
    data_root: str | Path | None = None,
) -> Run:
    """Convert a results folder of the original into a finished run (``attractor-ae import-run``).

    Unknown keys of ``cfg.toml``, and impossible values of keys that only matter in training, are
    left out and named in the run's log. The history is empty. ``seed`` is the seed of the original
    run, which does not store it; 0 if unknown. Trial masks and heads depend on it. For some data
    sets, class names are read from the files in ``data_root``.

    Raises:
        AttractorError: If a file is missing or damaged, ``cfg.toml`` has an impossible value, the
            weights do not fit the network that it describes, or ``target`` contains a run
            already.
    """
    folder, run = Path(folder), Run(Path(target))
    if run.finished or run.checkpoint_file.exists():
        raise AttractorError(f"{run.path}: already contains a run; choose another folder")
    config, notes = _read_config(folder / CONFIG_FILE, seed)
    path = folder / WEIGHTS_FILE
    content = _read(path)
    names = {}  # of each tensor in the original -> in this package
    for theirs, ours in ORIGINAL_LAYERS[config.model.type].items():
        names |= {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}
    own = activation_function(config.model.activation).state_dict()
    names |= {f"activation.{part}": f"activation.{part}" for part in own}
    state = _state_dict(content, path)
    if left_out := _check_tensors(state, names, path):
        notes.append(f"left out of {path.name}: the loss, a network of {left_out} tensors")

    name, count, known = _trained_set(config, data_root)
    classes = 0
    if config.model.type == "conv":
        classes = state["classifier.fc_2.bias"].numel()
        if count not in (None, classes):
            raise AttractorError(
                f"{path}: contains a classifier of {classes} classes, but data set {name!r} has "
                f"{count}; correct dataset.name in {folder / CONFIG_FILE}"
            )
    metadata = {"dataset": name}  # as `training.trained_on` writes it
    if known is None:
        notes.append(f"the class names of data set {name!r} are unknown")
    else:
        metadata["classes"] = json.dumps(known)
    weights = _renamed(state, names, config, classes, path)

    # All input is read and checked before anything is written.
    write_text(run.config_file, config.to_toml())
    origin = {"imported_from": str(folder), "imported_sha256": hashlib.sha256(content).hexdigest()}
    write_json(run.environment_file, {**environment("cpu", "float32"), **origin})
    write_text(run.history_file, history_text([]))
    run.log(f"imported from {folder}, a run of the original; not trained by this package")
    for note in notes:
        run.log(note)
    # Written last: a run with weights counts as finished.
    write_tensors(run.weights_file, weights, metadata)
    return run


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttractorError(
            f"{path}: cannot be read ({error.strerror}); {_FROM_THE_ORIGINAL}"
        ) from None


def _read_config(path: Path, seed: int | None) -> tuple[ExperimentConfig, list[str]]:
    """Return the experiment of a ``cfg.toml``, and a line per key that was left out or added."""
    try:
        values: dict[str, Any] = tomllib.loads(_read(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AttractorError(f"{path}: is not valid TOML: {error}") from None
    left_out = {}
    for section, table in list(values.items()):
        field = ExperimentConfig.model_fields.get(section)
        if field is None:
            left_out[section] = values.pop(section)
        elif isinstance(table, dict) and isinstance(field.annotation, type):
            for key in table.keys() - field.annotation.model_fields:
                left_out[f"{section}.{key}"] = table.pop(key)

    def table_of(section: str) -> dict[str, Any]:
        found = values.get(section)
        return found if isinstance(found, dict) else {}  # the validation reports a wrong type

    dataset, training = table_of("dataset"), table_of("training")
    if "training" in values:
        _leave_out_of_training(training, table_of("model"), left_out)
    else:
        values["training"] = training
    if info := CATALOGUE.get(str(dataset.get("name")).lower()):
        dataset["name"] = info.name
        if not info.factors and dataset.get("factor"):
            # The original uses it only for data sets with variants.
            left_out["dataset.factor"] = dataset.pop("factor")
    notes = [f"left out of {path.name}: {k} = {v!r}" for k, v in sorted(left_out.items())]
    # What the script of the original has for this D_in.
    known = published().get(str(dataset.get("name")))
    if known is not None and "evaluation" not in values:
        keys = {"out_datasets", "accuracy_splits"}
        values["evaluation"] = known.evaluation.model_dump(include=keys)
    if seed is not None:
        training["seed"] = seed
    elif "seed" not in training:
        notes.append("the original stores no seed: 0 is used")
    return ExperimentConfig.from_dict(values, str(path)), notes


def _leave_out_of_training(
    training: dict[str, Any], model: dict[str, Any], left_out: dict[str, Any]
) -> None:
    """Move keys that are impossible here to ``left_out``, since the run is trained already."""
    impossible = set()
    for key in training.keys() - {"augment", "seed"}:  # which matter after the training
        try:
            TrainingConfig.model_validate({key: training[key]})
        except ValidationError:
            impossible.add(key)
    if model.get("type") == "conv":  # the original's classifier ignores these keys
        if training.get("make_instance_impossible"):
            impossible.add("make_instance_impossible")
        if model.get("metric"):
            left_out["model.metric"] = model.pop("metric")
    left_out |= {f"training.{key}": training.pop(key) for key in impossible}


def _state_dict(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file, all or a part of it; code in the file is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensor types that are rejected below
            loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file can raise almost any exception
        # Its message is omitted: it advises weights_only=False, which runs code in the file.
        asked = re.search(r"(?i:global) (?:GLOBAL )?([\w.]+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else type(error).__name__
        raise AttractorError(
            f"{path}: is damaged or contains more than weights ({reason}); "
            "get the file again, or save the model's state_dict() with torch.save"
        ) from None
    inner = loaded.values() if isinstance(loaded, Mapping) else ()
    for state in (loaded, *inner):
        if isinstance(state, Mapping) and any(name in state for name in _WEIGHTS):
            for name, value in state.items():
                dense = isinstance(value, Tensor) and value.layout == torch.strided
                plain = dense and value.device.type == "cpu" and not value.is_quantized
                if not (isinstance(name, str) and plain):
                    raise AttractorError(
                        f"{path}: {name!r} is not a plain tensor; save only state_dict()"
                    )
            return dict(state)
    raise AttractorError(
        f"{path}: does not contain a network of the original, which has e.g. a tensor "
        f"{_WEIGHTS[0]}; {_FROM_THE_ORIGINAL}"
    )


def _check_tensors(state: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> int:
    """Check that all tensors in ``names`` are there, and return the number of those of the loss."""
    if missing := [name for name in names if name not in state]:
        more = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise AttractorError(
            f"{path}: lacks {missing[0]}{more}; check model.type and model.activation in "
            f"{CONFIG_FILE}, and that the file is complete"
        )
    left_out = 0
    for name in state.keys() - names.keys():
        again = _ACTIVATION_AGAIN.fullmatch(name)
        shared = state.get("".join(again.groups())) if again else None
        if name.startswith("criterion."):  # the perceptual loss, a separate network
            left_out += 1
        elif shared is None:
            raise AttractorError(f"{path}: {unknown_name('tensor', name, names)}")
        elif state[name].tolist() != shared.tolist():
            raise AttractorError(
                f"{path}: {name} differs from the activation of the other layers; "
                "the original shares one activation among all layers"
            )
    return left_out


def _renamed(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    config: ExperimentConfig,
    classes: int,
    path: Path,
) -> dict[str, Tensor]:
    """Return float32 weights by this package's names, for the network of the config."""
    with torch.device("meta"):  # only the shapes are needed
        wanted = build_network(config, classes).state_dict()
    weights, model = {}, config.model
    for theirs, ours in names.items():
        tensor, shape = state[theirs], wanted[ours].shape
        if tensor.shape != shape:
            raise AttractorError(
                f"{path}: {theirs} has shape {tuple(tensor.shape)}, but model.dropout = "
                f"{model.dropout:g} and model.dimension = {model.dimension} need {tuple(shape)}; "
                f"give the {CONFIG_FILE} that it was trained with"
            )
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise AttractorError(f"{path}: {theirs} contains NaN or infinite weights; train again")
        # A copy: tensors of a file may share memory, which safetensors does not allow.
        weights[ours] = tensor.detach().float().clone(memory_format=torch.contiguous_format)
    return weights


def _trained_set(
    config: ExperimentConfig, root: str | Path | None
) -> tuple[str, int | None, tuple[str, ...] | None]:
    """Return the name of the training set, its number of classes and their names, if known."""
    name, split = config.dataset.name, config.dataset.split
    info = CATALOGUE.get(name)
    if info is None or split not in info.splits:
        return name, None, None
    classes = getattr(info.source, "classes", ())
    if listing := getattr(info.source, "listing", None):
        with suppress(AttractorError):  # the files with the class names are missing
            classes = classes or listing(split, data_root(root))[2]
    return name, info.splits[split].classes, classes or None
