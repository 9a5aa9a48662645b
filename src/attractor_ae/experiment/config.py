"""The keys of a TOML config: those of the original scripts, and new ones.

Every new key has a default that reproduces the original. A mistake is reported in one line: file,
key, value, what is allowed, and the nearest name. Nothing here imports torch.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.experiment._validation import read_toml, validated

ReconstructionLossName = Literal["ssim", "ms-ssim", "mse", "l1", "huber", "bce", "perceptual"]
MetricLossName = Literal["", "triplet", "angular", "npair", "ntxent", "contrastive"]
OptimizerName = Literal["Adam", "AdamW", "SGD"]
ModelType = Literal["dropout-cae", "conv"]
HeadName = Literal["mlp", "knn"]
MaskScope = Literal["trial", "sample"]
HeadInput = Literal["code", "path"]
# In [0, 1], as thresholds and histograms want them.
ReportedScore = Literal[
    "entropy", "member_entropy", "mutual_information", "vote_diversity", "ood_score"
]
PointScore = Literal["reconstruction_error", "ssim_distance", "step"]
LatentScore = Literal["feature_norm", "circular_variance", "mahalanobis", "knn_distance"]
ScoreName = Literal[ReportedScore, PointScore, LatentScore]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

# The elementwise activations of torch.nn; a test compares them.
ACTIVATIONS = tuple(
    re.findall(
        r"\w+",
        "ReLU Hardtanh ReLU6 Sigmoid Hardsigmoid Tanh SiLU Mish Hardswish ELU CELU SELU GELU "
        "Hardshrink LeakyReLU LogSigmoid Softplus Softshrink PReLU Softsign Tanhshrink",
    )
)

PRESETS = ("default", "paper", "quick")
"""Names of the experiments that ship with the package."""

_LOSS_SPELLINGS = {"msssim": "ms-ssim", "mssim": "ms-ssim"}


def _known_spelling(value: object, allowed: Sequence[str]) -> object:
    """Return ``value`` as ``allowed`` spells it; upper and lower case are the same."""
    if not isinstance(value, str):
        return value
    return {name.lower(): name for name in allowed}.get(value.strip().lower(), value)


def _loss(value: object) -> object:
    if isinstance(value, str):
        value = _LOSS_SPELLINGS.get(re.sub(r"[-_ ]", "", value).lower(), value)
    return _known_spelling(value, get_args(ReconstructionLossName))


def _spelled(names: object) -> BeforeValidator:
    return BeforeValidator(lambda value: _known_spelling(value, get_args(names)))


def _activation(name: str) -> str:
    spelled = _known_spelling(name, ACTIVATIONS)
    if spelled not in ACTIVATIONS:
        raise ValueError(str(unknown_name("activation", name, ACTIVATIONS)))
    return str(spelled)


class _Section(BaseModel):
    # Strict: neither true nor "3" is an integer. Lists become tuples nevertheless.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1)]
PerClass = Annotated[int, Field(ge=-1)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class DatasetConfig(_Section):
    """``[dataset]``: the training images."""

    name: str
    """Name of a data set, or path of own images."""
    factor: str = ""
    """Variation of the set, e.g. the car of a SVIRO set."""
    split: str = "train"
    """Training split."""
    nbr_of_samples_per_class: PerClass = 250
    """Images per class; -1: all."""
    # New keys.
    subset_seed: int = Field(default=-1, ge=-1, lt=2**63)
    """-1: the first of each class in the set's own order; else the seed that draws them."""
    split_seed: Seed = 0
    """Seed that divides own images into train and test where no folder does."""
    image_size: int = Field(default=64, ge=16, le=4096, multiple_of=16)
    """Height and width of images and network."""
    channels: Literal[1, 3] = 1
    """1: grey, 3: colour; of images and network."""
    calibration_fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Fraction of each class kept for calibration."""
    max_broken: float = Field(default=0.01, ge=0, le=1)
    """Fraction of broken files up to which they are left out."""


class ModelConfig(_Section):
    """``[model]``: the network."""

    type: Annotated[ModelType, _spelled(ModelType)] = "dropout-cae"
    """Dropout autoencoder, or the convolutional classifier of the baselines."""
    metric: Annotated[MetricLossName, _spelled(MetricLossName)] = ""
    """Metric loss on the latent codes, added to the reconstruction loss."""
    dimension: int = Field(default=64, ge=1, le=65_536)
    """Length of the latent code."""
    activation: Annotated[str, AfterValidator(_activation)] = "ReLU"
    """Elementwise activation of torch.nn by name."""
    dropout: float = Field(default=0.33, ge=0, le=0.99, allow_inf_nan=False)
    """Dropout rate, in training and at inference."""


class TrainingConfig(_Section):
    """``[training]``: the optimisation."""

    gpu: str = Field(default="0", pattern=r"^\d+$")
    """Number of the GPU that device "auto" takes where there is one."""
    batch_size: Positive = 64
    """Images per step."""
    optimizer: Annotated[OptimizerName, _spelled(OptimizerName)] = "Adam"
    """Optimiser of PyTorch."""
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    """Learning rate; of "onecycle" its peak."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight decay of the optimiser."""
    epochs: Positive = 25_000
    """Passes over the training images."""
    frequency: Positive = 1
    """Epochs between two lines of the log (original: between plots)."""
    loss: Annotated[ReconstructionLossName, BeforeValidator(_loss)] = "ssim"
    """Reconstruction loss."""
    make_scene_impossible: bool = False
    """Reconstruct the same scene under another variation."""
    make_instance_impossible: bool = False
    """Reconstruct a random other image of the class."""
    augment: bool = True
    """Augment the input; the target stays as it is."""
    # New keys.
    seed: Seed = 0
    """Seed of the first weights, batches, augmentation and masks."""
    schedule: Literal["constant", "onecycle"] = "constant"
    """Course of the learning rate: constant, or one cycle up and down."""
    device: str = "auto"
    """Device of PyTorch by name; "auto": a GPU if there is one."""
    precision: Precision = "auto"
    """Mixed precision by default ("auto") where the device has the instructions."""
    checkpoint_interval: Positive = 20
    """Epochs between two checkpoints."""

    @model_validator(mode="before")
    @classmethod
    def _gpu_number_as_text(cls, values: Any) -> Any:  # noqa: ANN401
        # The original writes gpu = "0"; a plain number means the same.
        if isinstance(values, Mapping) and type(values.get("gpu")) is int:
            return {**values, "gpu": str(values["gpu"])}
        return values

    @model_validator(mode="after")
    def _one_target(self) -> "TrainingConfig":
        if self.make_scene_impossible and self.make_instance_impossible:
            raise ValueError(
                "make_scene_impossible and make_instance_impossible exclude each other; "
                "set one of them to false"
            )
        return self


class EvaluationConfig(_Section):
    """``[evaluation]``: the detector and its data sets; published values are the defaults."""

    recursions: Positive = 6
    """Number of recursions that are evaluated, from 0."""
    recursion: int = Field(default=2, ge=0)
    """The recursion that is reported."""
    trials: Positive = 20
    """Number of dropout masks."""
    nbr_of_samples_per_class: PerClass = 250
    """Test images per known class; -1: all."""
    head: Annotated[HeadName, _spelled(HeadName)] = "mlp"
    """Classifier of latent codes: multilayer perceptron, or nearest neighbours."""
    head_masks: Positive = 1
    """Masks per training image that heads are fitted on."""
    head_input: HeadInput = "code"
    """Input of a head: the code z_r, or the path z_0 .. z_r."""
    mask_scope: MaskScope = "trial"
    """Trial: the images of a trial share its mask; sample: each has its own."""
    precision: Precision = "auto"
    """As in [training]."""
    score: ReportedScore = "entropy"
    """The score that is reported; "ood_score" needs a calibration_fraction."""
    scores: tuple[ScoreName, ...] = Field(default=(), strict=False)
    """Further scores."""
    out_datasets: Names = ()
    """The D_outs, "NAME" or "NAME:FACTOR"; default: faces, textures, photos."""
    covariate_shift_datasets: Names = ()
    """Sets that show the known classes under other conditions."""
    accuracy_splits: Names = ()
    """Further splits of D_in for the accuracy."""

    @model_validator(mode="after")
    def _reported_recursion_is_evaluated(self) -> "EvaluationConfig":
        if self.recursion >= self.recursions:
            raise ValueError(
                f"recursion {self.recursion} is not evaluated; "
                f"it must be less than recursions ({self.recursions})"
            )
        return self


class ExperimentConfig(_Section):
    """One experiment: the whole of a TOML file.

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
        training = self.training
        impossible = training.make_scene_impossible or training.make_instance_impossible
        if self.model.type == "conv" and (self.model.metric or impossible):
            raise ValueError(
                'model.type "conv" has no latent code and no reconstruction; set model.metric to '
                '"", and make_scene_impossible and make_instance_impossible to false'
            )
        if self.model.type == "conv" and self.evaluation.score == "vote_diversity":
            raise ValueError(
                'model.type "conv" has no latent code, so there is no score "vote_diversity"; '
                'set evaluation.score to "entropy"'
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "ExperimentConfig":
        """Validate tables of values, one per section; errors name ``source``.

        Raises:
            AttractorError: On an unknown key, a wrong type or an impossible value.
        """
        return validated(cls, values, source)

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = ()) -> "ExperimentConfig":
        """Read a TOML file; ``overrides`` are ``"section.key=value"`` that win over it.

        The value is written as in TOML; text needs no quotes. A file may begin with
        ``base = "default"``, the preset whose values apply to the keys that it does not set;
        without it, the values of the released code apply.

        Raises:
            AttractorError: If the file is missing or not TOML, or on an unknown key or an
                impossible value.
        """
        values = read_toml(path)
        if (base := values.pop("base", None)) is not None:
            if base not in PRESETS:
                raise AttractorError(f"{path}: {unknown_name('base', str(base), PRESETS)}")
            values = _merged(preset_values(base), values)
        return cls.from_dict(override(values, overrides), str(path))

    def to_toml(self) -> str:
        """Return the experiment as TOML text; `from_toml` reads the same experiment back."""
        return tomli_w.dumps(self.model_dump())


def preset_values(name: str) -> dict[str, Any]:
    """Return the tables of one of ``PRESETS``."""
    folder = resources.files("attractor_ae.experiment") / "presets"
    with resources.as_file(folder / f"{name}.toml") as path:
        return read_toml(path)


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of ``base`` with the keys of ``values`` set."""
    merged = dict(base)
    for section, table in values.items():
        both = isinstance(table, Mapping) and isinstance(base.get(section), Mapping)
        merged[section] = {**base[section], **table} if both else table
    return merged


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with every ``"section.key=value"`` of ``overrides`` set.

    Examples:
        >>> override({"training": {"epochs": 9}}, ["training.epochs=200", "model.activation=SiLU"])
        {'training': {'epochs': 200}, 'model': {'activation': 'SiLU'}}
    """
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for text in overrides:
        path, equals, raw = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and section and key):
            raise AttractorError(
                f"--set {text!r}: must read section.key=value, e.g. training.epochs=200"
            )
        table = result.setdefault(section, {})
        if not isinstance(table, dict):
            raise AttractorError(f"--set {text!r}: {section!r} is not a section")
        try:
            table[key] = tomllib.loads(f"value = {raw.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            table[key] = raw.strip()  # text without quotes
    return result
