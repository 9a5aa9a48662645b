import tomllib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attractor_ae._errors import AttractorError
from attractor_ae._fast_layers import ACTIVATIONS
from attractor_ae.core.heads import HEADS
from attractor_ae.core.scores import SCORES
from attractor_ae.data import CATALOGUE
from attractor_ae.experiment.config import (
    PRESETS,
    ExperimentConfig,
    HeadName,
    MetricLossName,
    ReconstructionLossName,
    ScoreName,
    preset,
)
from attractor_ae.losses.metric import METRIC_LOSSES
from attractor_ae.losses.reconstruction import RECONSTRUCTION_LOSSES

# A file as the original's authors wrote it: every key that it knows, and no other.
ORIGINAL = """
[dataset]
name = "sviro_uncertainty"
factor = "sharan"
split = "train-adults"
nbr_of_samples_per_class = 250

[model]
type = "dropout-cae"
metric = ""
dimension = 64
activation = "ReLU"
dropout = 0.33

[training]
gpu = "0"
batch_size = 64
optimizer = "Adam"
learning_rate = 1e-4
weight_decay = 0
epochs = 25000
frequency = 500
loss = "SSIM"
make_scene_impossible = false
make_instance_impossible = false
augment = true
"""


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "cae.toml"
    path.write_text(ORIGINAL)
    return path


def error_of(path, *overrides):
    with pytest.raises(AttractorError) as caught:
        ExperimentConfig.from_toml(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_of_an_editor_that_marks_utf_8(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[dataset]\nname = 'Bäume'\n", encoding="utf-8-sig")
    assert ExperimentConfig.from_toml(path).dataset.name == "Bäume"


def test_reads_the_original_as_it_is(original):
    config = ExperimentConfig.from_toml(original)
    written = tomllib.loads(ORIGINAL)
    written["training"]["loss"] = "ssim"
    for section, values in written.items():
        read = getattr(config, section).model_dump()
        assert {key: read[key] for key in values} == values
    dataset = CATALOGUE[config.dataset.name]
    assert config.dataset.factor in dataset.factors
    assert config.dataset.split in dataset.splits


def test_new_keys_default_to_the_published_values(original):
    config = ExperimentConfig.from_toml(original)
    assert config.training.schedule == "constant"
    assert config.training.seed == 0
    dataset = config.dataset
    assert (dataset.image_size, dataset.channels, dataset.subset_seed) == (64, 1, -1)
    evaluation = config.evaluation
    assert (evaluation.recursions, evaluation.recursion, evaluation.trials) == (6, 2, 20)
    assert (evaluation.head, evaluation.head_masks) == ("paper-mlp", 1)
    assert evaluation.mask_scope == "sample"
    assert (evaluation.score, evaluation.scores) == ("entropy", ())
    assert dataset.calibration_fraction == 0


def test_names_in_a_config_are_those_that_the_rooms_know():
    assert set(get_args(ReconstructionLossName)) == {"", *RECONSTRUCTION_LOSSES}
    assert set(get_args(MetricLossName)) == {"", *METRIC_LOSSES}
    assert set(get_args(HeadName)) == set(HEADS)
    assert set(get_args(ScoreName)) == set(SCORES)


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [("SSIM", "ssim"), ("MSSIM", "ms-ssim"), ("MS-SSIM", "ms-ssim"), ("Huber", "huber")],
)
def test_losses_are_read_in_any_spelling(original, spelled, canonical):
    config = ExperimentConfig.from_toml(original, [f"training.loss={spelled}"])
    assert config.training.loss == canonical


def test_a_gpu_number_means_the_same_as_its_text(original):
    assert ExperimentConfig.from_toml(original, ["training.gpu=1"]).training.gpu == "1"


@pytest.mark.parametrize("gpu", ["", "-1", "0,1"])
def test_values_of_cuda_visible_devices_are_gpus(gpu):
    values = {"dataset": {"name": "mnist"}, "training": {"gpu": gpu}}
    assert ExperimentConfig.from_dict(values).training.gpu == gpu


def test_overrides_win_over_the_file(original):
    config = ExperimentConfig.from_toml(
        original, ["training.epochs=200", "model.activation=silu", "evaluation.trials=3"]
    )
    assert config.training.epochs == 200
    assert config.model.activation == "SiLU"
    assert config.evaluation.trials == 3


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=3", ["[training]", "'epoch'", "did you mean 'epochs'"]),
        ("trainin.epochs=3", ["section", "'trainin'", "did you mean 'training'"]),
        ("training.epochs=-1", ["training.epochs = -1", "greater than or equal to 0"]),
        ("model.dropout=1.5", ["model.dropout = 1.5", "less than"]),
        (
            "evaluation.score=ood_score",
            ["set dataset.calibration_fraction", "choose another score"],
        ),
        (
            "evaluation.score=reconstruction_error",
            ["evaluation.score", "'reconstruction_error'", "ood_score"],
        ),
        ('evaluation.scores=["stepp"]', ["evaluation.scores", "'stepp'"]),
        ("training.epochs=1.5", ["training.epochs = 1.5", "integer"]),
        ("training.epochs=true", ["training.epochs = True", "integer"]),
        ("training.learning_rate=nan", ["training.learning_rate", "finite"]),
        ("training.loss=sim", ["training.loss", "'sim'", "did you mean 'ssim'", "huber"]),
        ("training.gpu=first", ["training.gpu = 'first'"]),
        ("model.dropout=0.999995", ["model.dropout", "less than or equal to 0.99"]),
        ("training.augment=maybe", ["training.augment = 'maybe'", "boolean"]),
        ("training.make_scene_impossible=true", ["make_scene_impossible", "'True'", "False"]),
        ("model.type=vae", ["model.type", "'vae'", "dropout-cae"]),
        ("model.metric=tripplet", ["model.metric", "did you mean 'triplet'"]),
        ("model.activation=Rel", ["model.activation", "did you mean 'ReLU'"]),
        ("model.dropout=1", ["model.dropout = 1", "less than or equal to 0.99"]),
        ("evaluation.recursion=6", ["recursion 6 is not evaluated"]),
        ("evaluation.out_datasets=faces", ["evaluation.out_datasets = 'faces'", "list"]),
        ("training=3", ["section.key=value"]),
        ("training.epochs", ["section.key=value"]),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_what_is_allowed(original, override, parts):
    message = error_of(original, override)
    assert str(original) in message or "--set" in message
    for part in parts:
        assert part in message


def test_a_classifier_has_no_metric_loss(original):
    message = error_of(original, "model.type=conv", "model.metric=ntxent")
    assert 'model.type "conv" has no latent code' in message
    message = error_of(original, "model.type=conv", "evaluation.score=vote_diversity")
    assert "vote_diversity" in message


def test_a_missing_name_is_said(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[dataset]\nsplit = 'train'\n")
    assert error_of(path) == f"{path}: dataset.name is missing; set it"


@pytest.mark.parametrize(
    ("content", "part"), [(b"[dataset\n", "not valid TOML"), (b"\xff\xfe", "cannot be read")]
)
def test_a_file_that_is_no_toml(tmp_path, content, part):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    message = error_of(path)
    assert str(path) in message
    assert part in message


def test_a_missing_file(tmp_path):
    assert "no such file" in error_of(tmp_path / "none.toml")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.fixed_dictionaries(
        {
            "dataset": st.fixed_dictionaries({"name": text, "factor": text, "split": text}),
            "model": st.fixed_dictionaries(
                {
                    "metric": st.sampled_from(["", "npair"]),
                    "dimension": st.integers(1, 65_536),
                    "activation": st.sampled_from(ACTIVATIONS),
                    "dropout": st.floats(0, 0.99),
                }
            ),
            "training": st.fixed_dictionaries(
                {
                    "gpu": st.integers(0, 99).map(str),
                    "learning_rate": st.floats(1e-300, 1e300),
                    "seed": st.integers(0, 2**63 - 1),
                    "augment": st.booleans(),
                    "loss": st.sampled_from(["ssim", "bce"]),
                }
            ),
            "evaluation": st.fixed_dictionaries(
                {"out_datasets": st.lists(text, max_size=3), "trials": st.integers(1, 99)}
            ),
        }
    )
)
def test_what_is_written_is_read_back(values):
    config = ExperimentConfig.from_dict(values)
    assert ExperimentConfig.from_dict(tomllib.loads(config.to_toml())) == config
    assert config.training.seed == values["training"]["seed"]
    assert config.dataset.split == values["dataset"]["split"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_starts_from_a_preset(tmp_path, name):
    path = tmp_path / "pets.toml"
    path.write_text(f'base = "{name}"\n[dataset]\nname = "pets"\n[training]\nepochs = 7\n')
    settings = ["dataset.name=pets", "training.epochs=7"]
    assert ExperimentConfig.from_toml(path) == preset(name, settings)
    assert ExperimentConfig.from_toml(path, ["training.epochs=8"]).training.epochs == 8


@pytest.mark.parametrize(("base", "part"), [('"defalt"', "default"), ("3", "3"), ("[]", "base")])
def test_an_unknown_base(tmp_path, base, part):
    path = tmp_path / "pets.toml"
    path.write_text(f"base = {base}\n[dataset]\nname = 'pets'\n")
    with pytest.raises(AttractorError, match=part) as raised:
        ExperimentConfig.from_toml(path)
    assert str(path) in str(raised.value)
