from pathlib import Path

import pytest

from attractor_ae._errors import AttractorError
from attractor_ae.data import CATALOGUE
from attractor_ae.experiment.suites import METHODS, SUITES, read_suite
from attractor_ae.experiment.sweep import seed_jobs

# PROTOCOL section 7, typed off the table.
PUBLISHED = {
    "mnist": ("test", {"fashion", "omniglot", "cifar10", "svhn"}),
    "fashion": ("test", {"mnist", "omniglot", "cifar10", "svhn"}),
    "svhn": ("test", {"places365", "lsun", "cifar10", "gtsrb"}),
    "gtsrb": ("test", {"svhn", "places365", "cifar10", "lsun"}),
    "sviro_uncertainty": (
        "test-adults",
        {"svhn", "places365", "cifar10", "lsun", "gtsrb", "sviro:tesla"},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_suites_are_the_published_table(name):
    suite = read_suite(name)
    split, outs = PUBLISHED[name]
    assert suite.in_dataset == name
    assert CATALOGUE[name].test_split == split
    assert set(suite.out_datasets) == outs
    assert [method.label for method in suite.methods if method.score == "entropy"] == [
        "MC-AE",
        "MC dropout",
        "deep ensemble",
    ]
    for out in suite.out_datasets:
        set_name, _, factor = out.partition(":")
        assert not factor or factor in CATALOGUE[set_name].factors


def test_sviro_uncertainty_has_six_accuracy_splits():
    suite = SUITES["sviro_uncertainty"]
    splits = {CATALOGUE["sviro_uncertainty"].test_split, *suite.accuracy_splits}
    assert splits == {
        "test-adults",
        "test-adults-and-objects",
        "test-adults-and-seats",
        "test-adults-and-seats-and-objects",
        "test-objects",
        "test-seats",
    }


@pytest.mark.parametrize("name", sorted(SUITES.keys() - {"open-set"}))
@pytest.mark.parametrize("quick", [True, False])
def test_every_method_is_an_experiment_on_the_suites_data(name, quick):
    suite = SUITES[name]
    for method in suite.methods:
        config = suite.experiment(method, quick=quick)
        assert config.dataset.name == suite.in_dataset
        assert config.dataset.split == suite.split
        assert config.evaluation.out_datasets == suite.out_datasets
        assert config.evaluation.trials == 20
        scores = {config.evaluation.score, *config.evaluation.scores, "entropy"}
        assert method.score in scores
        published = not quick and method.label != "MC-AE, fused"
        if config.model.type == "conv":
            assert config.model.dropout == (0 if method.ensemble else 0.33)
            assert (config.training.epochs == 1000) is published
        else:
            assert (config.training.epochs == 25_000) is published
        assert (config.training.learning_rate == 1e-4) is published


@pytest.mark.parametrize("quick", [True, False])
def test_open_set_methods_differ_in_the_space_and_see_the_same_images(quick):
    suite = SUITES["open-set"]
    configs = [suite.experiment(method, quick=quick) for method in suite.methods]
    spaces = {(config.model.type, config.model.space) for config in configs}
    assert spaces >= {("dropout-cae", "features"), ("conv", "standardised")}
    assert len(spaces) == 3
    for config in configs:
        assert config.dataset.open_set_split == 0
        assert (
            config.evaluation.nbr_of_samples_per_class
            == configs[0].evaluation.nbr_of_samples_per_class
        )
        assert [job.config.dataset.open_set_split for job in seed_jobs(config, (3, 1), "runs")] == [
            3,
            1,
        ]


def test_quick_methods_of_one_network_share_their_training():
    suite = SUITES["builtin"]
    paper, fused = (
        suite.experiment(method, quick=True).model_dump(exclude={"evaluation"})
        for method in METHODS[:2]
    )
    assert paper == fused


def test_an_own_suite_is_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        in_dataset = "mnist5k"
        out_datasets = ["faces", 'photos']

        [methods."MC-AE, wide"]
        experiment = "default"
        settings = ["model.dimension=128"]
        score = "mutual_information"

        [methods.plain]
        """
    )
    suite = read_suite(path)
    assert suite.name == "mine"
    assert [method.label for method in suite.methods] == ["MC-AE, wide", "plain"]
    config = suite.experiment(suite.methods[0], out_datasets=["faces"])
    assert config.model.dimension == 128
    assert config.evaluation.out_datasets == ("faces",)
    path.write_text('in_dataset = "mnist5k"\nout_datasets = ["faces"]')
    assert read_suite(path).methods == METHODS


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("type = 'dropout-cae'", "MC-AE"),
        ("type = 'conv'", "MC dropout"),
        ("type = 'conv'\ndropout = 0.0", "deep ensemble"),
    ],
)
def test_a_config_of_the_released_code_is_a_suite_of_one_method(tmp_path, model, label):
    path = tmp_path / "dropout_cae.toml"
    path.write_text(f"[dataset]\nname = 'MNIST'\n[model]\n{model}\n[training]\nepochs = 7\n")
    suite = read_suite(path)
    assert (suite.name, suite.in_dataset) == ("dropout_cae", "MNIST")
    assert suite.out_datasets == SUITES["mnist"].out_datasets
    assert [method.label for method in suite.methods] == [label]
    config = suite.experiment(suite.methods[0])
    assert config.training.epochs == 7
    assert suite.methods[0].ensemble == (label == "deep ensemble")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out_datasets = ['faces']", r"either the section \[dataset\]"),
        ("in_dataset = 'mnist5k'\n[dataset]\nname = 'mnist5k'", r"either the section \[dataset\]"),
        ("in_dataset = 'mnist5k'\nout_datasets = []", "out_datasets"),
        ("in_dataset = 'mnist5k'\nout_dataset = ['faces']", "did you mean 'out_datasets'"),
        (
            "in_dataset = 'mnist5k'\nout_datasets = ['faces']\n[methods.a]\nscores = 'entropy'",
            r'methods."a".*did you mean \'score\'',
        ),
        (
            "in_dataset = 'mnist5k'\nout_datasets = ['faces']\n[methods.'A+']\n[methods.'a-']",
            "several methods would have the folder 'a'",
        ),
        ("in_dataset = 'mnist5k'\nout_datasets = ['faces']\nmethods = 3", "methods must be tables"),
        ("in_dataset", "is not valid TOML"),
    ],
)
def test_a_wrong_suite_is_told_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(AttractorError, match=message) as caught:
        read_suite(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_suite_is_told_with_the_nearest():
    with pytest.raises(AttractorError, match="unknown suite 'fashon'; did you mean 'fashion'"):
        read_suite("fashon")
    with pytest.raises(AttractorError, match="no such file"):
        read_suite("nowhere.toml")


def test_a_folder_of_that_name_is_no_suite_and_no_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "paper", "quick"):
        (tmp_path / name).mkdir()
    suite = read_suite("mnist")
    assert suite.experiment(suite.methods[0]).training.epochs == 25_000
    (tmp_path / "paper").rmdir()
    (tmp_path / "paper").write_text("not a config")
    assert suite.experiment(suite.methods[0]).training.epochs == 25_000


def test_the_score_of_a_method_is_measured(tmp_path):
    path = tmp_path / "mine.toml"
    text = "in_dataset = 'mnist5k'\nout_datasets = ['faces']\n[methods.a]\nscore = '{}'"
    path.write_text(text.format("mutual_information"))
    suite = read_suite(path)
    for quick in (True, False):
        config = suite.experiment(suite.methods[0], quick=quick)
        assert "mutual_information" in config.evaluation.scores
    path.write_text(text.format("ood_score"))
    suite = read_suite(path)
    with pytest.raises(AttractorError, match="needs calibration images"):
        suite.experiment(suite.methods[0])


@pytest.mark.parametrize("quick", [True, False])
def test_the_documented_suite_works(tmp_path, quick):
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(page.split("```toml")[1].split("```")[0])
    suite = read_suite(path)
    kinds = [suite.experiment(method, quick=quick).model.type for method in suite.methods]
    assert kinds == ["dropout-cae", "conv"]
