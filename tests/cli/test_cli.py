"""The terminal, tried as a new user would."""

import re
import sys
from importlib.metadata import version

import numpy as np
import pytest
import typer
from at_terminal import error_line, invoke, options
from PIL import Image
from small_models import FEW

from attractor_ae import Run, load_detector, preset
from attractor_ae.cli import app
from attractor_ae.data import CATALOGUE

TINY = [
    "dataset.nbr_of_samples_per_class=6",
    "training.epochs=2",
    *FEW,
    "evaluation.out_samples_per_class=5",
    "evaluation.out_datasets=['faces']",
]
# Of six images a class three are enough to calibrate on.
TINY_DEMO = [*TINY, "dataset.calibration_fraction=0.5"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "digits.toml"
    path.write_text("[dataset]\nname = 'mnist5k'\n")
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a tiny demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, invoke("demo", "--out", folder, *options(TINY_DEMO))


@pytest.mark.slow
def test_the_demo_leaves_a_table_and_pictures(demo):
    folder, result = demo
    assert result.exit_code == 0, result.output
    for part in ("mnist5k", "digits8", "faces", "covariate shift", "AUROC", "every recursion"):
        assert part in result.stdout
    evaluation = folder / "evaluation"
    for name in ("ood_score", "recursions", "reconstructions"):
        assert (evaluation / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (evaluation / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert str(evaluation / f"{name}.png") in result.stdout
    assert (folder / "report.html").exists()
    assert (folder / "detector.safetensors").exists()


@pytest.mark.slow
def test_a_finished_demo_is_evaluated_again_to_the_same_table(demo):
    folder, first = demo
    again = invoke("demo", "--out", folder, *options(TINY_DEMO))

    def table(text):
        return [line for line in text.splitlines() if "│" in line or "accuracy on" in line]

    assert again.exit_code == 0
    assert table(again.stdout) == table(first.stdout) != []


@pytest.mark.slow
def test_a_finished_demo_can_be_evaluated_differently(demo):
    folder, _ = demo
    again = invoke(
        "demo", "--out", folder, *options([*TINY_DEMO, "evaluation.out_datasets=['photos']"])
    )
    assert again.exit_code == 0
    assert "photos" in again.stdout
    assert "photos" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_train_then_evaluate(config, tmp_path):
    run = tmp_path / "run"
    trained = invoke("train", config, "--out", run, *options(TINY))
    assert trained.exit_code == 0, trained.output
    assert "accuracy" not in trained.stdout
    assert f"Next: attractor-ae evaluate {run}" in trained.stdout
    evaluated = invoke("evaluate", run, "--set", "evaluation.head=knn")
    assert evaluated.exit_code == 0, evaluated.output
    assert "faces" in evaluated.stdout


def test_train_then_evaluate_a_classifier(config, tmp_path):
    run = tmp_path / "run"
    settings = [*TINY, "model.type=conv"]
    trained = invoke("train", config, "--out", run, *options(settings))
    assert trained.exit_code == 0, trained.output
    assert re.search(r"training: epoch 2/2, loss \S+, accuracy \d+\.\d %, ", trained.stdout)
    evaluated = invoke("evaluate", run)
    assert evaluated.exit_code == 0, evaluated.output
    assert "MC dropout on mnist5k" in evaluated.stdout
    assert f"{run}/evaluation/entropy.png" in evaluated.stdout


def test_runs_have_a_place_by_default(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [*TINY, "training.epochs=1", "training.seed=3"]
    assert invoke("train", config, *options(settings)).exit_code == 0
    assert (tmp_path / "runs" / "mnist5k-digits-seed3" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "command",
    [
        name
        for name, command in typer.main.get_command(app).commands.items()
        if any("--out" in parameter.opts for parameter in command.params)
    ],
)
def test_an_output_without_a_name_is_refused(command):
    result = invoke(command, "any", "--out", "")
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert "empty" in result.stderr


def test_an_unknown_data_set(config, tmp_path):
    result = invoke("train", config, "--out", tmp_path / "r", "--set", "dataset.name=mnist5")
    assert "unknown data set 'mnist5'; did you mean 'mnist5k'" in error_line(result)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluation.out_datasets=['facse']", "unknown data set 'facse'; did you mean 'faces'"),
        ("evaluation.out_datasets=['mnist5k']", "'mnist5k' is named twice"),
        ("dataset.split=test", "dataset.split 'test'"),
        ("dataset.split=trian", "has no split 'trian'; available: train, test"),
        ("dataset.factor=sharan", "'mnist5k' has no variants"),
    ],
)
def test_names_are_checked_before_training(config, tmp_path, setting, message):
    result = invoke("train", config, "--out", tmp_path / "r", *options([*TINY, setting]))
    assert message in error_line(result)
    assert not (tmp_path / "r").exists()


def test_a_path_that_is_too_long(config, tmp_path):
    result = invoke("train", config, "--out", tmp_path / ("x" * 300), *options(TINY))
    assert "ame too long" in error_line(result)


def test_a_typo_in_a_key(config, tmp_path):
    config.write_text("[dataset]\nname = 'mnist5k'\n[training]\nepoch = 3\n")
    line = error_line(invoke("train", config, "--out", tmp_path / "r"))
    assert f"{config}: unknown key in [training]: 'epoch'; did you mean 'epochs'" in line


def test_a_run_folder_that_does_not_exist(tmp_path):
    line = error_line(invoke("evaluate", tmp_path / "none"))
    assert "none: there is no run" in line


def test_a_run_with_truncated_weights(config, tmp_path):
    run = tmp_path / "run"
    invoke("train", config, "--out", run, *options(TINY))
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "weights.safetensors: is truncated or damaged" in error_line(invoke("evaluate", run))
    assert not (run / "evaluation").exists()


def test_a_folder_that_cannot_be_written_to(config, tmp_path):
    # A file where the folder should be: no permission bit stops the superuser.
    (tmp_path / "file").write_text("")
    line = error_line(invoke("train", config, "--out", tmp_path / "file" / "run", *options(TINY)))
    assert "cannot be written" in line
    assert "choose another folder" in line


@pytest.mark.slow
def test_only_the_evaluation_of_a_run_can_be_set(demo):
    folder, _ = demo
    line = error_line(invoke("evaluate", folder, "--set", "training.epochs=3"))
    assert "only keys of [evaluation], dataset.max_broken, training.device and" in line


@pytest.mark.slow
def test_a_run_of_another_machines_device_is_evaluated_on_this_ones(config, tmp_path):
    run = tmp_path / "run"
    invoke("train", config, "--out", run, *options(TINY))
    toml = run / "config.toml"
    toml.write_text(toml.read_text().replace('device = "auto"', 'device = "cuda:99"'))
    assert "device 'cuda:99' cannot be used" in error_line(invoke("evaluate", run))
    result = invoke("evaluate", run, "--set", "training.device=cpu")
    assert result.exit_code == 0, result.stderr


def test_an_unknown_option_is_the_usual_error():
    result = invoke("train", "--epochs", "3")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_data_list_names_every_set_and_how_to_get_it(tmp_path):
    result = invoke("data", "list", "--data-root", tmp_path, width=500)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for name, info in CATALOGUE.items():
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert info.title in row
        assert ("present" if info.kind == "built-in" else "missing") in row or name == "fashion"
        assert info.licence in result.stdout
        assert info.kind == "built-in" or info.obtain in result.stdout or name == "fashion"
    assert f"where: {tmp_path}/MNIST/raw" in result.stdout
    assert "attractor-ae[lsun]" in result.stdout  # the brackets are no style
    assert "your own images, give a path" in result.stdout


def test_data_list_can_be_read_in_100_columns(tmp_path):
    result = invoke("data", "list", "--data-root", tmp_path, width=100)
    table = result.stdout.split("Data root:")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 100
    for name in CATALOGUE:
        assert f"\n{name} " in f"\n{table}"


def test_data_list_of_one_set_tells_all(tmp_path):
    result = invoke("data", "list", "sviro", "--data-root", tmp_path)
    assert result.exit_code == 0
    for text in ("train: 2000 images, 8 classes, missing", "tesla, aclass", "citation: S. Dias"):
        assert text in result.stdout
    for line in CATALOGUE["sviro"].layout.splitlines():
        assert line in result.stdout
    assert "did you mean 'sviro'" in error_line(invoke("data", "list", "svir"))


def test_data_download_without_a_way_says_what_to_do(tmp_path):
    line = error_line(invoke("data", "download", "lsun", "--data-root", tmp_path))
    assert "'lsun' cannot be downloaded; get and unpack" in line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of own images, of two classes; a cache of its own, which is empty."""
    monkeypatch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            place = tmp_path / "pets" / split / label
            place.mkdir(parents=True)
            for i in range(3):
                Image.new("L", (80, 60), 20 * i).save(place / f"{i}.png")
    return tmp_path / "pets"


def test_own_images_are_prepared_shown_and_cleared(folder, tmp_path):
    result = invoke("data", "prepare", folder)
    assert result.exit_code == 0, result.output
    for split in ("train", "test"):
        assert f"{folder} {split}: 6 images, 2 classes" in result.stdout
    assert "preparing" in result.stdout
    assert "preparing" not in invoke("data", "prepare", folder).stdout  # it is there

    result = invoke("data", "show", folder, "--out", tmp_path / "pets.png")
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/pets.png" in result.stdout
    with Image.open(tmp_path / "pets.png") as picture:
        assert picture.width > 100

    result = invoke("data", "clear")
    assert result.stdout.endswith("MB freed\n")
    assert not list((tmp_path / "cache").rglob("*.npy"))
    assert len(list(folder.rglob("*.png"))) == 12


def test_a_flat_folder_is_shown_and_cleared_by_its_path(folder, tmp_path):
    flat = folder / "train" / "cat"
    result = invoke("data", "show", flat, "--out", tmp_path / "flat")
    assert result.exit_code == 0, result.output
    assert invoke("data", "clear", "mnist").stdout == "0.0 MB freed\n"
    assert list((tmp_path / "cache").rglob("*.npy"))
    assert invoke("data", "clear", flat).exit_code == 0
    assert not list((tmp_path / "cache").rglob("*.npy"))
    assert "unknown data set 'mnits'" in error_line(invoke("data", "clear", "mnits"))


def test_broken_files_are_told_and_counted(folder):
    for i in range(3, 203):
        Image.new("L", (8, 8), i).save(folder / f"train/cat/{i}.png")
    (folder / "train/cat/broken.png").write_bytes(b"no image")
    result = invoke("data", "prepare", folder, "--split", "train")
    assert result.exit_code == 0, result.output
    assert "train: 206 images, 2 classes" in result.stdout
    assert f"left out: {folder}/train/cat/broken.png: is not an image" in result.stderr


def test_more_broken_files_can_be_allowed(folder):
    (folder / "train/cat/9.png").write_bytes(b"no picture")
    line = error_line(invoke("data", "prepare", folder, "--split", "train"))
    assert "1 of 7 files cannot be used" in line
    assert "--max-broken" in line
    result = invoke("data", "prepare", folder, "--split", "train", "--max-broken", "0.2")
    assert result.exit_code == 0, result.output
    assert "9.png: is not an image" in result.stderr


@pytest.mark.slow
def test_what_was_left_out_is_told_where_it_is_used(folder, tmp_path):
    (folder / "train/cat/9.png").write_bytes(b"no picture")
    (folder / "test/cat/9.png").write_bytes(b"no picture")
    config = tmp_path / "pets.toml"
    config.write_text(f"[dataset]\nname = '{folder}'\nmax_broken = 0.2\n")
    result = invoke("train", config, "--out", tmp_path / "run", *options(TINY[1:]))
    assert result.exit_code == 0, result.output
    assert "train/cat/9.png: is not an image" in result.stderr
    every = ("--set", "evaluation.nbr_of_samples_per_class=-1")
    strict = (*every, "--set", "dataset.max_broken=0.0")
    assert "--max-broken" in error_line(invoke("evaluate", tmp_path / "run", *strict))
    result = invoke("evaluate", tmp_path / "run", *every)
    assert result.exit_code == 0, result.output
    assert "test/cat/9.png: is not an image" in result.stderr


@pytest.mark.slow  # trains
def test_a_folder_of_images_is_trained_on_with_the_default_recipe(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["dataset.nbr_of_samples_per_class=2", "dataset.calibration_fraction=0"]
    settings = [*TINY, *few, "evaluation.score=entropy"]
    result = invoke("train", "pets", *options(settings))
    assert result.exit_code == 0, result.output
    run = Run.open(tmp_path / "runs" / "pets-default-seed0")
    assert run.config().dataset.name == "pets"
    assert run.config().model.metric == preset("default").model.metric
    # What is used of the folder, and how long it takes, is stated before the training ends.
    assert "4 of 6 images" in result.stderr
    assert "2 epochs, " in result.stderr
    assert "is a run" in error_line(invoke("train", run.path))


def test_test_images_are_not_trained_on(folder, tmp_path):
    config = tmp_path / "pets.toml"
    config.write_text(f"[dataset]\nname = '{folder}'\nsplit = 'all'\n")
    line = error_line(invoke("train", config, "--out", tmp_path / "run", *options(TINY)))
    assert "dataset.split 'all'" in line


def test_missing_data_sets_are_told_before_training(config, tmp_path):
    missing = [*TINY[:-1], "evaluation.out_datasets=['svhn']"]
    root = ("--data-root", tmp_path)
    line = error_line(invoke("train", config, "--out", tmp_path / "r", *options(missing), *root))
    assert f"data set 'svhn' needs {tmp_path}/svhn/test_32x32.mat" in line
    assert not (tmp_path / "r").exists()


def test_own_images_in_the_data_root_are_listed(folder, tmp_path):
    result = invoke("data", "list", "--data-root", tmp_path)
    assert f"where: {folder}" in result.stdout
    assert "train 6, test 6" in result.stdout
    result = invoke("data", "list", "pets", "--data-root", tmp_path)
    assert "train: 6 images, 2 classes, present" in result.stdout
    assert "citation" not in result.stdout
    result = invoke("data", "show", "pets", "--data-root", tmp_path, "--out", tmp_path / "p.png")
    assert result.exit_code == 0, result.output


def test_another_size_and_colour(folder, tmp_path):
    options = ("--size", "32", "--channels", "3")
    result = invoke("data", "show", folder, *options, "--out", tmp_path / "p")
    assert result.exit_code == 0, result.output
    assert "a multiple of 16" in error_line(invoke("data", "show", folder, "--size", "50"))
    assert "channels must be 1" in error_line(invoke("data", "show", folder, "--channels", "2"))


@pytest.mark.slow
def test_train_and_evaluate_in_colour_and_another_size(folder, tmp_path):
    config = tmp_path / "pets.toml"
    config.write_text(f"[dataset]\nname = '{folder}'\nimage_size = 32\nchannels = 3\n")
    result = invoke("train", config, "--out", tmp_path / "run", *options(TINY))
    assert result.exit_code == 0, result.output
    assert "preparing" in result.stdout
    result = invoke("evaluate", tmp_path / "run")
    assert result.exit_code == 0, result.output
    detector = load_detector(tmp_path / "run/detector.safetensors")
    assert detector.image_shape == (3, 32, 32)


def test_a_built_in_set_is_shown(tmp_path):
    result = invoke("data", "show", "mnist5k", "--out", tmp_path / "digits", "--per-class", "5")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "digits.png").is_file()


@pytest.mark.slow
def test_train_and_evaluate_on_images_from_files(tmp_path, monkeypatch):
    """Prepared images are maps of files that cannot be written to."""
    monkeypatch.setenv("ATTRACTOR_AE_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64), dtype=np.uint8)
    for split in ("train", "test"):
        folder = tmp_path / "data/sviro/zoe" / split / "grayscale_wholeImage"
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            seats = "_".join("3" if i >> seat & 1 else "0" for seat in range(3))
            Image.fromarray(image).save(folder / f"zoe_{split}_imageID_{i}_GT_{seats}.png")
    config = tmp_path / "cars.toml"
    config.write_text("[dataset]\nname = 'sviro'\nfactor = 'zoe'\n")
    root = ("--data-root", tmp_path / "data")
    result = invoke("train", config, "--out", tmp_path / "run", *options(TINY), *root)
    assert result.exit_code == 0, result.output
    result = invoke("evaluate", tmp_path / "run", *root)
    assert result.exit_code == 0, result.output
    assert "sviro" in result.stdout


def test_an_unknown_split_is_one_line():
    line = error_line(invoke("data", "show", "photos", "--split", "train"))
    assert "data set 'photos' has no split 'train'; available: test" in line


def test_version_and_help():
    assert invoke("--version").stdout == f"attractor-ae {version('attractor-ae')}\n"
    text = invoke("--help").stdout
    for command in ("demo", "train", "evaluate", "data"):
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "quick", "--out", "my run"], "train quick --out 'my run' --resume"),
        (["train", "quick", "--resume"], "train quick --resume"),
        (["figures", "runs/*"], "figures 'runs/*'"),
    ],
)
def test_an_interrupted_command_tells_how_it_continues(monkeypatch, arguments, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for place in ("train.run_training", "compare.draw_runs"):
        monkeypatch.setattr(f"attractor_ae.experiment.{place}", interrupted)
    monkeypatch.setattr(sys, "argv", ["attractor-ae", *arguments])
    result = invoke(*arguments)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"to continue, run: attractor-ae {command}\n")
