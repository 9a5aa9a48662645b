"""The keys of a TOML config: those of the original scripts, and new ones.

Every new key has a default that reproduces the original. An error is one line: file, key, value,
allowed values, and the nearest name. This module does not import torch.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BeforeValidator, Field, model_validator

from attractor_ae._errors import AttractorError, check_known, unknown_name
from attractor_ae.experiment._validation import Table, read_toml, validated

ReconstructionLossName = Literal["", "ssim", "ms-ssim", "mse", "l1", "huber", "bce", "perceptual"]
MetricLossName = Literal["", "triplet", "angular", "npair", "contrastive", "ntxent"]
OptimizerName = Literal["Adam", "AdamW", "SGD"]
SpaceName = Literal["pixels", "standardised", "features"]
ModelType = Literal["dropout-cae", "conv"]
HeadName = Literal["mlp", "paper-mlp", "knn"]
MaskScope = Literal["trial", "stratified", "sample"]
HeadInput = Literal["code", "path"]
# Scores in [0, 1], as required for thresholds and histograms.
ReportedScore = Literal[
    "entropy", "member_entropy", "mutual_information", "vote_diversity", "ood_score"
]
PointScore = Literal["reconstruction_error", "ssim_distance", "cosine_distance", "step"]
LatentScore = Literal["feature_norm", "circular_variance", "mahalanobis", "knn_distance"]
ImageScore = Literal["layer_mahalanobis", "linear_energy", "contrast", "detail_mahalanobis"]
ScoreName = Literal[ReportedScore, PointScore, LatentScore, ImageScore]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

# The elementwise activations of torch.nn; a test checks that the list is complete.
Rectifier = Literal["ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "CELU", "SELU", "GELU", "SiLU"]
Squashing = Literal["Sigmoid", "Hardsigmoid", "LogSigmoid", "Tanh", "Hardtanh", "Softsign"]
OtherShape = Literal["Mish", "Hardswish", "Softplus", "Hardshrink", "Softshrink", "Tanhshrink"]
ActivationName = Literal[Rectifier, Squashing, OtherShape]

PRESETS = ("default", "paper", "quick", "photographs")
"""Names of the experiments that ship with the package."""

SPACE_NAMES = {
    "pixels": "pixels",
    "standardised": "pixels with standardised brightness and contrast",
    "features": "the features of a pretrained network",
}
"""What the points of each ``model.space`` are, in words."""

_LOSS_SPELLINGS = {"msssim": "ms-ssim", "mssim": "ms-ssim"}


def _known_spelling(value: object, allowed: Sequence[str]) -> object:
    """Return ``value`` in the spelling of ``allowed``, ignoring case."""
    if not isinstance(value, str):
        return value
    return {name.lower(): name for name in allowed}.get(value.strip().lower(), value)


def _loss(value: object) -> object:
    if isinstance(value, str):
        value = _LOSS_SPELLINGS.get(re.sub(r"[-_ ]", "", value).lower(), value)
    return _known_spelling(value, get_args(ReconstructionLossName))


def _spelled(names: object) -> BeforeValidator:
    return BeforeValidator(lambda value: _known_spelling(value, get_args(names)))


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1)]
PerClass = Annotated[int, Field(ge=-1)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
# The original writes gpu = "0"; a plain number means the same.
_NUMBER_AS_TEXT = BeforeValidator(lambda gpu: str(gpu) if type(gpu) is int else gpu)
Gpus = Annotated[str, _NUMBER_AS_TEXT, Field(pattern=r"^(|-1|\d+(,\d+)*)$")]


class DatasetConfig(Table):
    """``[dataset]``: the training images."""

    name: str
    """Name of a data set, or path of your own images."""
    factor: str = ""
    """Variant of the data set, e.g. the car of a SVIRO set."""
    split: str = "train"
    """Training split."""
    nbr_of_samples_per_class: PerClass = 250
    """Images per class; -1: all."""
    # New keys.
    subset_seed: int = Field(default=-1, ge=-1, lt=2**63)
    """-1: the first images of each class in the set's order; otherwise the seed to draw them."""
    split_seed: Seed = 0
    """Seed for dividing your own images into train and test, if folders do not divide them."""
    open_set_split: int = Field(default=-1, ge=-1, lt=2**63)
    """-1: all classes are known; otherwise the seed to draw the 60 % that are."""
    image_size: int = Field(default=64, ge=16, le=4096, multiple_of=16)
    """Height and width of the images and of the network's input."""
    channels: Literal[1, 3] = 1
    """Channels of the images and of the network's input; 1: grey, 3: colour."""
    aspect: Literal["stretch", "crop", "pad"] = "stretch"
    """Images that are not square: height and width scaled independently, the centre cropped to the
    shorter side, or black margins added."""
    calibration_fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of each class that is not trained on but used for calibration."""
    max_broken: float = Field(default=0.01, ge=0, le=1)
    """Largest fraction of broken files that are left out; more are an error."""


class ModelConfig(Table):
    """``[model]``: the network."""

    type: Annotated[ModelType, _spelled(ModelType)] = "dropout-cae"
    """Dropout autoencoder, or the convolutional classifier of the baselines."""
    metric: Annotated[MetricLossName, _spelled(MetricLossName)] = ""
    """Metric loss on the latent codes, added to the reconstruction loss."""
    dimension: int = Field(default=64, ge=1, le=65_536)
    """Length of the latent code."""
    activation: Annotated[ActivationName, _spelled(ActivationName)] = "ReLU"
    """Name of an elementwise activation of torch.nn."""
    dropout: float = Field(default=0.33, ge=0, le=0.99, allow_inf_nan=False)
    """Dropout rate, in training and at inference."""
    # New keys.
    space: Annotated[SpaceName, _spelled(SpaceName)] = "pixels"
    """What the network works on: pixels, images with mean and contrast removed, or features."""
    extractor: str = "efficientnet-lite0"
    """Frozen network of the features: efficientnet-lite0, timm/NAME or torchvision/NAME."""
    weight_gain: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor of the initial weights; PyTorch's shrink a signal by about 1.7 per layer."""


class TrainingConfig(Table):
    """``[training]``: the optimisation."""

    gpu: Gpus = "0"
    """Index of the GPU for device "auto"; the first, if several are given; "": none."""
    batch_size: Positive = 64
    """Images per step."""
    optimizer: Annotated[OptimizerName, _spelled(OptimizerName)] = "Adam"
    """PyTorch optimiser."""
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    """Learning rate; for the schedule "onecycle", its peak."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight decay of the optimiser."""
    epochs: int = Field(default=25_000, ge=0)
    """Passes over the training images; 0: as many as are needed for 1 080 steps."""
    frequency: Positive = 1
    """Number of epochs between log lines (in the original: between plots)."""
    loss: Annotated[ReconstructionLossName, BeforeValidator(_loss)] = "ssim"
    """Reconstruction loss; "": only the squared error."""
    make_scene_impossible: Literal[False] = False
    """Reconstruct the same scene in another variant; must be false, as no data set has variants."""
    make_instance_impossible: bool = False
    """Reconstruct another random image of the same class."""
    augment: bool = True
    """Augment the input but not the target."""
    # New keys.
    seed: Seed = 0
    """Seed of the initial weights, batches, augmentation and masks."""
    metric_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Factor of the metric loss; if it is large, a code contains only the class."""
    balanced: bool = False
    """Draw images of every class equally often, for classes of different sizes."""
    class_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the cross entropy of a linear layer on the codes, used only in training."""
    mse_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the mean squared error (mean over pixels), added to the reconstruction loss."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Largest random shift of an image and its target, as a fraction of the side of an image."""
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Standard deviation of Gaussian noise on the input, in units of the space."""
    dropout_warmup: int = Field(default=0, ge=0)
    """Steps until the full dropout rate, at most a third of all: 0 in the first half, then rising.
    If nothing is learned by then, the training starts again with three times as many."""
    schedule: Literal["constant", "onecycle"] = "constant"
    """Learning rate schedule: constant, or one cycle up and down."""
    device: str = "auto"
    """Name of a PyTorch device; "auto": a GPU if there is one."""
    precision: Precision = "auto"
    """Precision; "auto": mixed precision if the device has the instructions."""
    checkpoint_interval: Positive = 20
    """Number of epochs between checkpoints."""

    @model_validator(mode="after")
    def _loss_and_its_weight(self) -> "TrainingConfig":
        if not self.loss and not self.mse_weight:
            raise ValueError('loss "" needs a mse_weight above 0')
        if self.loss == "bce" and self.mse_weight:
            raise ValueError('mse_weight must be 0 with loss "bce", whose outputs are logits')
        return self


class EvaluationConfig(Table):
    """``[evaluation]``: the detector and its data sets; the defaults are the published values."""

    recursions: Positive = 6
    """Number of recursions to evaluate, starting with recursion 0."""
    recursion: int = Field(default=2, ge=0)
    """Reported recursion."""
    trials: Positive = 20
    """Number of dropout masks."""
    nbr_of_samples_per_class: PerClass = 250
    """Test images per known class; -1: all."""
    head: Annotated[HeadName, _spelled(HeadName)] = "paper-mlp"
    """Classifier of latent codes: perceptron ("paper-mlp": as published), or nearest neighbours."""
    head_masks: Positive = 1
    """Number of masks per training image for fitting the heads."""
    head_input: HeadInput = "code"
    """Input of a head: the code z_r, or the path z_0 .. z_r."""
    mask_scope: MaskScope = "sample"
    """"trial": one mask for all images of a trial; "stratified": the same, drawn so that results
    vary less between seeds; "sample": one mask per image."""
    precision: Precision = "float32"
    """As in [training]."""
    score: ReportedScore = "entropy"
    """Reported score; "ood_score" needs a calibration_fraction."""
    scores: tuple[ScoreName, ...] = Field(default=(), strict=False)
    """Further scores to compute."""
    out_datasets: Names = ()
    """The D_outs, "NAME" or "NAME:FACTOR"; default: faces, textures, photos."""
    out_samples_per_class: PerClass = 0
    """Images per class of each D_out; 0: the published number of each data set; -1: all."""
    covariate_shift_datasets: Names = ()
    """Data sets of the known classes under other conditions."""
    accuracy_splits: Names = ()
    """Further splits of D_in on which the accuracy is computed."""

    @model_validator(mode="after")
    def _reported_recursion_is_evaluated(self) -> "EvaluationConfig":
        if self.recursion >= self.recursions:
            raise ValueError(
                f"recursion {self.recursion} is not evaluated; "
                f"it must be less than recursions ({self.recursions})"
            )
        return self


class ExperimentConfig(Table):
    """One experiment: the content of a TOML file.

    Examples:
        >>> config = ExperimentConfig.from_dict({"dataset": {"name": "mnist5k"}})
        >>> config.training.learning_rate
        0.0001
    """

    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _the_ood_score_is_calibrated(self) -> "ExperimentConfig":
        wanted = "ood_score" in (self.evaluation.score, *self.evaluation.scores)
        if wanted and not self.dataset.calibration_fraction:
            raise ValueError(
                'the score "ood_score" needs calibration images; set '
                "dataset.calibration_fraction for the training, or choose another score"
            )
        return self

    @model_validator(mode="after")
    def _a_classifier_reconstructs_nothing(self) -> "ExperimentConfig":
        training, classifier = self.training, self.model.type == "conv"
        if classifier and (self.model.metric or training.make_instance_impossible):
            raise ValueError(
                'model.type "conv" has no latent code and no reconstruction; set model.metric to '
                '"", and make_instance_impossible to false'
            )
        on_images = classifier or training.augment or training.shift or training.loss
        if self.model.space == "features" and on_images:
            raise ValueError(
                'model.space "features" needs model.type "dropout-cae", training.loss "", and '
                "neither training.augment nor training.shift, since features are computed once"
            )
        if self.model.space != "pixels" and training.loss == "bce":
            raise ValueError('loss "bce" needs pixels in [0, 1]; set model.space to "pixels"')
        if classifier and self.evaluation.score == "vote_diversity":
            raise ValueError(
                'model.type "conv" has no latent code, so there is no score "vote_diversity"; '
                'set evaluation.score to "entropy"'
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "ExperimentConfig":
        """Validate tables of values, one per section; error messages begin with ``source``.

        Raises:
            AttractorError: On an unknown key, a wrong type or an impossible value.
        """
        return validated(cls, values, source)

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "ExperimentConfig":
        """Read a TOML file; ``overrides``, each ``"section.key=value"``, replace its values.

        The value is written as in TOML; text needs no quotes. If the file begins with
        ``base = "default"``, keys that it does not set have the values of that preset; otherwise
        they have the values of the released code.

        Raises:
            AttractorError: If the file is missing or not TOML, or on an unknown key or an
                impossible value.
        """
        values = read_toml(path)
        if (base := values.pop("base", None)) is not None:
            if base not in PRESETS:
                raise AttractorError(f"{path}: {unknown_name('base', str(base), PRESETS)}")
            for section, table in preset_values(base).items():
                own = values.setdefault(section, {})
                values[section] = {**table, **own} if isinstance(own, dict) else own
        return cls.from_dict(override(values, overrides), str(path))

    def to_toml(self) -> str:
        """Return the experiment as TOML text; `from_toml` reads the same experiment back."""
        return tomli_w.dumps(self.model_dump())


def preset(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return an experiment that ships with the package.

    ``"default"`` is the recommended recipe, ``"paper"`` the published one, ``"quick"`` the recipe
    of the demo, and ``"photographs"`` works on the features of a pretrained network; ``overrides``
    are as for `ExperimentConfig.from_toml`.

    Raises:
        AttractorError: If there is no preset of that name; otherwise as for
            `ExperimentConfig.from_toml`.
    """
    check_known("preset", name, PRESETS)
    # A mistake is in the overrides, not in the package's file.
    return ExperimentConfig.from_dict(override(preset_values(name), overrides), f"preset {name}")


def preset_values(name: str) -> dict[str, Any]:
    """Return the tables of one of ``PRESETS``."""
    return read_toml(Path(__file__).parent / "presets" / f"{name}.toml")


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with every ``"section.key=value"`` of ``overrides`` set."""
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for text in overrides:
        path, equals, raw = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section and key):
            raise AttractorError(
                f"--set {text!r}: must have the form section.key=value, e.g. training.epochs=200"
            )
        table = result.setdefault(section, {})
        if not isinstance(table, dict):
            raise AttractorError(f"--set {text!r}: {section!r} is not a section")
        try:
            table[key] = tomllib.loads(f"value = {raw.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            table[key] = raw.strip()  # text without quotes
    return result
