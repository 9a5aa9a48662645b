"""The files of ``configs/`` against the numbers of PROTOCOL sections 2, 3, 5, 6 and 7."""

import runpy
import tomllib
from pathlib import Path

import pytest

from attractor_ae.data import CATALOGUE
from attractor_ae.experiment.config import ExperimentConfig
from attractor_ae.training import build_network

FOLDER = Path(__file__).parents[2] / "configs"
DOCS = FOLDER.parent / "docs"
REFERENCE = runpy.run_path(str(DOCS / "config_reference.py"))

IN_DATASETS = {  # D_in: its training split, its D_outs
    "mnist": ("train", ["fashion", "omniglot", "cifar10", "svhn"]),
    "fashion": ("train", ["mnist", "omniglot", "cifar10", "svhn"]),
    "svhn": ("train", ["places365", "lsun", "cifar10", "gtsrb"]),
    "gtsrb": ("train", ["svhn", "places365", "cifar10", "lsun"]),
    "sviro_uncertainty": (
        "train-adults",
        ["svhn", "places365", "cifar10", "lsun", "gtsrb", "sviro:tesla"],
    ),
}
METHODS = {  # end of the file's name: network, dropout rate, epochs, w, f
    "": ("dropout-cae", 0.33, 25_000, 43, 341),
    "-mc-dropout": ("conv", 0.33, 1_000, 43, 341),
    "-ensemble": ("conv", 0.0, 1_000, 32, 256),
}
PUBLISHED = [(name, method) for name in IN_DATASETS for method in METHODS]
ACCURACY_SPLITS = [
    "test-adults",
    "test-adults-and-objects",
    "test-adults-and-seats",
    "test-adults-and-seats-and-objects",
    "test-objects",
    "test-seats",
]


def values_of(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def config_of(name):
    values = values_of(name)
    return ExperimentConfig.from_dict(values, name)


def test_there_is_a_file_for_each_experiment_and_no_other():
    expected = {f"{name}{method}" for name, method in PUBLISHED}
    assert {path.stem for path in FOLDER.iterdir()} == expected


def test_the_files_are_those_that_make_configs_writes(tmp_path):
    REFERENCE["write_configs"](tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == written


@pytest.mark.parametrize(("name", "method"), PUBLISHED)
def test_a_published_experiment_has_the_published_values(name, method):
    config = config_of(name + method)
    kind, dropout, epochs, w, f = METHODS[method]
    split, outs = IN_DATASETS[name]
    dataset, model, training = config.dataset, config.model, config.training
    assert (dataset.name, dataset.split) == (name, split)
    assert (dataset.nbr_of_samples_per_class, dataset.subset_seed) == (250, -1)
    assert (dataset.image_size, dataset.channels, dataset.calibration_fraction) == (64, 1, 0)
    assert (model.type, model.dropout, model.metric, model.activation) == (
        kind,
        dropout,
        "",
        "ReLU",
    )
    assert (training.epochs, training.batch_size, training.optimizer) == (epochs, 64, "Adam")
    assert (training.learning_rate, training.weight_decay) == (1e-4, 0)
    assert (training.schedule, training.augment) == ("constant", True)
    assert (training.make_scene_impossible, training.make_instance_impossible) == (False, False)
    assert list(config.evaluation.out_datasets) == outs
    assert config.evaluation.score == "entropy"
    # n images of each class of D_in's test split: section 6.
    assert config.evaluation.nbr_of_samples_per_class == 250

    network = build_network(config, 10)
    assert network.encoder[0].out_channels == w
    if kind == "conv":
        assert network.hidden.out_features == f
    else:
        assert network.encoder_linear.out_features == f
        assert network.latent.out_features == 64
        assert training.loss == "ssim"


@pytest.mark.parametrize("name", IN_DATASETS)
def test_twenty_trials_are_published(name):
    attractors, dropout = config_of(name).evaluation, config_of(f"{name}-mc-dropout").evaluation
    assert (attractors.trials, attractors.recursions, attractors.recursion) == (20, 6, 2)
    assert (attractors.head, attractors.head_masks) == ("paper-mlp", 1)
    assert attractors.mask_scope == dropout.mask_scope == "sample"
    assert dropout.trials == 20


@pytest.mark.parametrize(("name", "method"), PUBLISHED)
def test_accuracy_splits_are_those_of_section_7(name, method):
    expected = ACCURACY_SPLITS if name == "sviro_uncertainty" else []
    assert values_of(name + method)["evaluation"]["accuracy_splits"] == expected
    if expected:
        assert set(expected) <= set(CATALOGUE[name].splits)


@pytest.mark.parametrize("name", IN_DATASETS)
def test_d_in_is_represented_by_its_test_split(name):
    expected = "test-adults" if name == "sviro_uncertainty" else "test"
    assert CATALOGUE[name].test_split == expected


def test_a_d_out_is_represented_as_sections_6_and_7_say():
    represented = {  # split, n per class
        **dict.fromkeys(("mnist", "fashion", "svhn", "gtsrb", "cifar10"), ("test", 250)),
        "omniglot": ("test", 4),
        "places365": ("test", 7),
        "lsun": ("train", 250),
        "sviro": ("train", -1),
    }
    named = {
        out
        for name, method in PUBLISHED
        for out in config_of(name + method).evaluation.out_datasets
    }
    for out in named:
        name, _, factor = out.partition(":")
        info = CATALOGUE[name]
        assert (info.out_split, info.per_class) == represented[name]
        assert factor in ("", *info.factors)


def test_the_reference_of_config_keys_is_that_of_the_code():
    page = REFERENCE["reference"]()
    assert (DOCS / "config.md").read_text(encoding="utf-8") == page
    for section in ExperimentConfig.model_fields.values():
        for key in section.annotation.model_fields:
            assert f"| `{key}` |" in page
