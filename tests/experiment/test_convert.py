"""Runs of the original, which are written here by networks built from its names alone."""

import json
import os
import tomllib
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from attractor_ae import ImageSet, Run, fit_detector, run_evaluation
from attractor_ae._errors import AttractorError
from attractor_ae._files import load_weights, read_tensors
from attractor_ae._random import Stream, generator
from attractor_ae.core.masks import draw_masks
from attractor_ae.experiment.convert import import_run
from attractor_ae.training import build_network, trained_on

CONFIG = """
[dataset]
name = "{name}"
factor = "{factor}"
split = "{split}"
nbr_of_samples_per_class = 250

[model]
type = "{type}"
metric = ""
dimension = {dimension}
activation = "{activation}"
dropout = {dropout}

[training]
gpu = "0"
batch_size = 64
optimizer = "Adam"
learning_rate = 0.0001
weight_decay = 0
epochs = 25000
frequency = 2500
loss = "SSIM"
make_scene_impossible = false
make_instance_impossible = false
augment = true
"""

CHANNELS = {0.0: 32, 0.1: 36, 0.33: 43}  # ceil(32 (1 + dropout))
FEATURES = {0.0: 256, 0.1: 282, 0.33: 341}  # ceil(256 (1 + dropout))


def convolution(a, b):
    return nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1)


def transposed(a, b):
    return nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1)


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


def trained_activation(name):
    activation = getattr(nn, name)()
    for weights in activation.parameters():
        nn.init.constant_(weights, 0.6)  # no longer as it began
    return activation


class OriginalAutoencoder(nn.Module):
    """The autoencoder of PROTOCOL section 2 in layers of the original's names."""

    def __init__(self, activation="ReLU", dropout=0.33, dimension=64):
        super().__init__()
        w, f = CHANNELS[dropout], FEATURES[dropout]
        self.activation = a = trained_activation(activation)
        self.encoder_first = named(conv_1=convolution(1, w), activation_1=a)
        self.encoder_second = named(conv_2=convolution(w, w), activation_2=a)
        self.encoder_third = named(conv_3=convolution(w, 2 * w), activation_3=a)
        self.encoder_fourth = named(conv_4=convolution(2 * w, 2 * w), activation_4=a)
        self.flatten = nn.Flatten()
        self.encoder_fifth = named(fc_1=nn.Linear(2 * w * 4 * 4, f), activation_5=a)
        self.encoder_final = nn.Linear(f, dimension)
        self.decoder_first = named(fc_1=nn.Linear(dimension, f), activation_1=a)
        self.decoder_second = named(fc_2=nn.Linear(f, 2 * w * 4 * 4), activation_2=a)
        self.unflatten = nn.Unflatten(1, (2 * w, 4, 4))
        self.decoder_third = named(conv_trans_1=transposed(2 * w, 2 * w), activation_3=a)
        self.decoder_fourth = named(conv_trans_2=transposed(2 * w, w), activation_4=a)
        self.decoder_fifth = named(conv_trans_3=transposed(w, w), activation_5=a)
        self.decoder_final = transposed(w, 1)

    def forward(self, x, masks):
        masks = iter(masks)
        for stage in (
            self.encoder_first,
            self.encoder_second,
            self.encoder_third,
            self.encoder_fourth,
        ):
            x = stage(x) * next(masks)
        x = self.encoder_fifth(self.flatten(x)) * next(masks)
        z = self.encoder_final(x)
        x = self.decoder_first(z) * next(masks)
        x = self.unflatten(self.decoder_second(x) * next(masks))
        for stage in (self.decoder_third, self.decoder_fourth, self.decoder_fifth):
            x = stage(x) * next(masks)
        return self.decoder_final(x), z


class OriginalClassifier(nn.Module):
    """The classifier of PROTOCOL section 2 in layers of the original's names."""

    def __init__(self, activation="ReLU", dropout=0.33, classes=10):
        super().__init__()
        w, f = CHANNELS[dropout], FEATURES[dropout]
        self.activation = a = trained_activation(activation)
        self.classifier = named(
            conv_1=convolution(1, w),
            activation_1=a,
            dropout_1=nn.Dropout(dropout),
            conv_2=convolution(w, w),
            activation_2=a,
            dropout_2=nn.Dropout(dropout),
            conv_3=convolution(w, 2 * w),
            activation_3=a,
            dropout_3=nn.Dropout(dropout),
            conv_4=convolution(2 * w, 2 * w),
            activation_4=a,
            dropout_4=nn.Dropout(dropout),
            flatten=nn.Flatten(),
            fc_1=nn.Linear(2 * w * 4 * 4, f),
            activation_5=a,
            fc_2=nn.Linear(f, classes),
        )

    def forward(self, x, masks):
        masks = iter(masks)
        for layer in self.classifier:
            x = x * next(masks) if isinstance(layer, nn.Dropout) else layer(x)
        return x


def written(folder, state, type="dropout-cae", **values):
    """Write a results folder as the original does."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "checkpoints/last_model.pth")
    given = {
        "name": "mnist",
        "factor": "",
        "split": "train",
        "dimension": 64,
        "activation": "ReLU",
        "dropout": 0.33,
        **values,
    }
    (folder / "cfg.toml").write_text(CONFIG.format(type=type, **given))
    return folder


def loaded(run, classes=10):
    """Return the network of a run, as an evaluation loads it."""
    tensors, _ = read_tensors(run.weights_file)
    network = build_network(run.config(), classes)
    load_weights(network, tensors, run.weights_file)
    return network


def ones_or_masks(network, dropped):
    if not dropped:
        return None, [1.0] * len(network.site_shapes)
    masks = draw_masks(network.site_shapes, 0.4, 6, generator(0, Stream.TRIAL_MASKS))
    return masks, masks.sites


@pytest.fixture
def images(digits):
    return torch.from_numpy(digits.images[::7]).float() / 255  # six real digits


@pytest.fixture
def original():
    torch.manual_seed(0)
    return OriginalAutoencoder()


SETTINGS = [("ReLU", 0.33), ("SiLU", 0.0), ("PReLU", 0.1)]


@pytest.mark.parametrize("dropped", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("activation", "dropout"), SETTINGS)
@pytest.mark.parametrize("dimension", [64, 5])
def test_the_autoencoder_computes_the_same(
    activation, dropout, dimension, dropped, images, tmp_path
):
    torch.manual_seed(1)
    theirs = OriginalAutoencoder(activation, dropout, dimension)
    values = {"activation": activation, "dropout": dropout, "dimension": dimension}
    folder = written(tmp_path / "theirs", theirs.state_dict(), **values)
    ours = loaded(import_run(folder, tmp_path / "ours"))
    masks, sites = ones_or_masks(ours, dropped)
    with torch.no_grad():
        reconstruction, latent = theirs(images, sites)
        output = ours(images, masks)
    assert latent.shape == (6, dimension)
    torch.testing.assert_close(output.latent, latent, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.reconstruction, reconstruction, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dropped", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(("activation", "dropout"), SETTINGS)
@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("some_other_set", 3)])
def test_the_classifier_computes_the_same(
    activation, dropout, name, classes, dropped, images, tmp_path
):
    torch.manual_seed(1)
    theirs = OriginalClassifier(activation, dropout, classes)
    values = {"activation": activation, "dropout": dropout, "name": name}
    folder = written(tmp_path / "theirs", theirs.state_dict(), "conv", **values)
    ours = loaded(import_run(folder, tmp_path / "ours"), classes)
    masks, sites = ones_or_masks(ours, dropped)
    with torch.no_grad():
        torch.testing.assert_close(ours(images, masks), theirs(images, sites), atol=1e-6, rtol=0)


def test_the_run_is_like_one_of_ours(original, digits, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict())
    run = import_run(folder, tmp_path / "ours", seed=7)
    assert Run.open(run.path).config().training.seed == 7
    with run.config_file.open("rb") as file:
        ours = tomllib.load(file)
    with (folder / "cfg.toml").open("rb") as file:
        theirs = tomllib.load(file)
    assert ours["training"].pop("loss") == theirs["training"].pop("loss").lower()
    for section, table in theirs.items():
        assert ours[section] | table == ours[section]
    named_mnist = ImageSet("mnist", "train", digits.images, digits.labels, digits.classes)
    metadata = read_tensors(run.weights_file)[1]
    assert metadata.items() >= trained_on(named_mnist).items()
    environment = json.loads(run.environment_file.read_text())
    assert environment["imported_from"] == str(folder)
    assert run.history_file.read_text().startswith("epoch,loss,")
    assert "a run of the original" in run.log_file.read_text()
    detector = fit_detector(
        run.path,
        named_mnist,
        overrides=["evaluation.recursions=1", "evaluation.recursion=0", "evaluation.trials=1"],
    )
    assert detector.predict(digits.images[:3]).shape == (3,)


@pytest.mark.slow
def test_the_run_can_be_evaluated(original, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict(), name="mnist5k")
    cfg = folder / "cfg.toml"
    cfg.write_text(cfg.read_text().replace("= 250", "= 4"))
    run = import_run(folder, tmp_path / "ours")
    result = run_evaluation(
        run.path,
        overrides=[
            "evaluation.recursions=2",
            "evaluation.recursion=1",
            "evaluation.trials=1",
            "evaluation.nbr_of_samples_per_class=2",
            "evaluation.out_samples_per_class=5",
            'evaluation.out_datasets=["faces"]',
        ],
    )
    assert result.in_scores.name == "mnist5k"
    assert [scores.name for scores in result.out_scores] == ["faces"]


NAMES = {
    "svhn": (10, [str(digit) for digit in range(10)]),
    "sviro_uncertainty": (
        8,
        ["0_0_0", "0_0_3", "0_3_0", "3_0_0", "0_3_3", "3_0_3", "3_3_0", "3_3_3"],
    ),
    "gtsrb": (10, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_named_as_far_as_they_are_known(name, tmp_path):
    count, names = NAMES[name]
    state = OriginalClassifier(dropout=0.0, classes=count).state_dict()
    split = "train-adults" if name == "sviro_uncertainty" else "train"
    folder = written(tmp_path / "theirs", state, "conv", name=name, split=split, dropout=0.0)
    run = import_run(folder, tmp_path / "ours", data_root=tmp_path)
    _, metadata = read_tensors(run.weights_file)
    if names is None:
        assert (metadata["dataset"], metadata.get("classes")) == (name, None)
        assert "class names of data set 'gtsrb' are unknown" in run.log_file.read_text()
    else:
        assert (metadata["dataset"], metadata["classes"]) == (name, json.dumps(names))


def test_classes_are_named_by_the_files_of_a_set(tmp_path):
    for sign in ("00010", "00011"):
        place = tmp_path / "gtsrb/GTSRB/Training" / sign
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "00000_00000.ppm")
    state = OriginalClassifier(dropout=0.0).state_dict()
    folder = written(tmp_path / "theirs", state, "conv", name="gtsrb", dropout=0.0)
    run = import_run(folder, tmp_path / "ours", data_root=tmp_path)
    classes = json.loads(read_tensors(run.weights_file)[1]["classes"])
    assert classes == [f"sign {sign}" for sign in range(10, 20)]


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_the_state_dict_may_be_an_entry_beside_others(entry, original, tmp_path):
    state = original.state_dict()
    plain = import_run(written(tmp_path / "a", state), tmp_path / "plain")
    inside = written(tmp_path / "b", {"epoch": 3, entry: state, "optimizer": {"lr": 0.1}})
    nested = import_run(inside, tmp_path / "nested")
    (expected, _), (found, _) = (read_tensors(run.weights_file) for run in (plain, nested))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_weights_that_share_memory_are_read(original, tmp_path):
    state = original.state_dict()
    state["decoder_first.fc_1.bias"] = state["encoder_fifth.fc_1.bias"]
    run = import_run(written(tmp_path / "theirs", state), tmp_path / "ours")
    weights, _ = read_tensors(run.weights_file)
    assert torch.equal(weights["decoder_linear.0.bias"], state["encoder_fifth.fc_1.bias"])


def test_what_is_left_out_is_told(original, tmp_path):
    state = original.state_dict()
    # The perceptual loss is a network, which the original stores as well.
    state |= {"criterion.net.slice1.0.weight": torch.ones(3), "criterion.lin": torch.ones(1)}
    folder = written(tmp_path / "theirs", state, name="MNIST", factor="sharan")
    cfg = folder / "cfg.toml"
    cfg.write_text(cfg.read_text().replace("[model]", "[model]\nwidth = 1024") + '[more]\na = "b"')
    run = import_run(folder, tmp_path / "ours")
    assert run.config().dataset.name == "mnist"
    assert run.config().dataset.factor == ""
    log = run.log_file.read_text()
    for line in (
        "left out of cfg.toml: model.width = 1024",
        "left out of cfg.toml: more = {'a': 'b'}",
        "left out of cfg.toml: dataset.factor = 'sharan'",
        "left out of last_model.pth: the loss, a network of 2 tensors",
        "the original stores no seed: 0 is used",
    ):
        assert line in log


def refused(folder, target, match, **options):
    """Assert that an import ends in one line and leaves nothing."""
    with pytest.raises(AttractorError, match=match) as caught:
        import_run(folder, target, **options)
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)
    assert not target.exists()


def test_missing_files_are_refused(original, tmp_path):
    target = tmp_path / "ours"
    refused(tmp_path / "nowhere", target, r"nowhere/cfg.toml: cannot be read \(No such file")
    folder = written(tmp_path / "theirs", original.state_dict())
    (folder / "checkpoints/last_model.pth").unlink()
    refused(folder, target, r"last_model.pth: cannot be read .*give a results folder")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[dataset]", "[dataset", "cfg.toml: is not valid TOML"),
        ('name = "mnist"', "", "cfg.toml: dataset.name is missing"),
        ("ReLU", "ReLUU", "cfg.toml: model.activation: unknown value 'ReLUU'; did you mean"),
        ("dropout-cae", "vae", "cfg.toml: model.type: unknown value 'vae'"),
        ("augment = true", 'augment = "often"', "cfg.toml: training.augment = 'often'"),
        ("[training]", "[[training]]", "cfg.toml: training = "),
    ],
)
def test_an_impossible_config_is_refused(old, new, match, original, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict())
    cfg = folder / "cfg.toml"
    cfg.write_text(cfg.read_text().replace(old, new))
    refused(folder, tmp_path / "ours", match)


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({'"Adam"': '"RMSprop"'}, ["training.optimizer = 'RMSprop'"]),
        ({"epochs = 25000": "epochs = -1", 'gpu = "0"': 'gpu = "none"'}, ["epochs = -1", "'none'"]),
        ({"impossible = false": "impossible = true"}, ["training.make_scene_impossible = True"]),
        ({'loss = "SSIM"': 'loss = "VAE"'}, ["training.loss = 'VAE'"]),
    ],
)
def test_what_only_training_needs_is_left_out(changes, noted, original, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict())
    cfg = folder / "cfg.toml"
    for old, new in changes.items():
        assert old in cfg.read_text()
        cfg.write_text(cfg.read_text().replace(old, new))
    log = import_run(folder, tmp_path / "ours").log_file.read_text()
    assert all(line in log for line in noted)


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


BIAS = "encoder_final.bias"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: without(s, BIAS), "lacks encoder_final.bias; check"),
        (lambda s: without(s, BIAS, "decoder_final.bias"), "lacks encoder_final.bias and 1 others"),
        (lambda s: {**s, "encoder_fourth.conv4.bias": s[BIAS]}, "unknown tensor .* did you mean"),
        (lambda s: {**s, BIAS: torch.ones(65)}, r"has shape \(65,\), but .* need \(64,\)"),
        (lambda s: {**s, BIAS: torch.full((64,), torch.nan)}, "NaN"),
        (lambda s: {**s, BIAS: torch.ones(64, dtype=torch.int64)}, "NaN"),
        (lambda s: {**s, BIAS: torch.ones(64).to_sparse()}, "is not a plain tensor"),
        (lambda s: {**s, BIAS: [1.0] * 64}, "is not a plain tensor"),
        (lambda s: {**s, 3: s[BIAS]}, "3 is not a plain tensor"),
        (
            lambda s: {f"module.{k}": t for k, t in s.items()},
            "does not contain a network of the original",
        ),
        (lambda s: list(s.values()), "does not contain a network of the original"),
        (lambda s: OriginalClassifier().state_dict(), "lacks encoder_first.conv_1.weight and 23"),
    ],
)
def test_other_weights_are_refused(change, match, original, tmp_path):
    folder = written(tmp_path / "theirs", change(original.state_dict()))
    refused(folder, tmp_path / "ours", f"last_model.pth: .*{match}")


def test_an_activation_that_is_not_shared_is_refused(tmp_path):
    state = OriginalAutoencoder("PReLU").state_dict()
    state["decoder_third.activation_3.weight"] = torch.ones(1)
    folder = written(tmp_path / "theirs", state, activation="PReLU")
    refused(folder, tmp_path / "ours", "differs from the activation of the other layers")


def test_a_classifier_of_another_set_is_refused(tmp_path):
    folder = written(tmp_path / "theirs", OriginalClassifier(classes=8).state_dict(), "conv")
    refused(folder, tmp_path / "ours", "classifier of 8 classes, but data set 'mnist' has 10")


def test_nothing_in_a_pickle_is_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/was-run",)

    folder = written(tmp_path / "theirs", {"encoder_final.bias": Malicious()})
    refused(folder, tmp_path / "ours", r"more than weights \(it asks for posix.system\)")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("keep", [0, 1, 1000, -1])
def test_a_truncated_file_is_refused(keep, original, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict())
    file = folder / "checkpoints/last_model.pth"
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, tmp_path / "ours", "last_model.pth: is damaged")


@pytest.fixture(scope="session")
def folder_to_damage(tmp_path_factory):
    state = OriginalClassifier(dropout=0.0, classes=3).state_dict()
    return written(
        tmp_path_factory.mktemp("damaged") / "theirs", state, "conv", name="own", dropout=0.0
    )


@pytest.fixture(scope="session")
def whole(folder_to_damage):
    return (folder_to_damage / "checkpoints/last_model.pth").read_bytes()


# The first and the last bytes hold the pickle and the directory of the archive, the others numbers.
@settings(max_examples=50)
@given(
    changes=st.dictionaries(
        st.one_of(st.integers(0, 2500), st.integers(-2500, -1)), st.integers(0, 255), min_size=1
    )
)
def test_damage_never_ends_in_a_traceback(changes, folder_to_damage, whole, tmp_path_factory):
    damaged = bytearray(whole)
    for place, byte in changes.items():
        damaged[place] = byte
    (folder_to_damage / "checkpoints/last_model.pth").write_bytes(damaged)
    with suppress(AttractorError):  # what was changed may be of no matter
        import_run(folder_to_damage, tmp_path_factory.mktemp("target") / "ours")


def test_a_run_is_not_written_over(original, tmp_path):
    folder = written(tmp_path / "theirs", original.state_dict())
    run = import_run(folder, tmp_path / "ours")
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(AttractorError, match="already contains a run"):
        import_run(folder, run.path)
    assert before == {path: path.read_bytes() for path in run.path.iterdir()}


def test_the_global_random_state_stays(original, tmp_path, unchanged_random_state):
    folder = written(tmp_path / "theirs", original.state_dict())
    import_run(folder, tmp_path / "ours")
