"""Export of a model: one graph from images, masks and threshold to verdicts, for ONNX or PyTorch.

The graph is traced from the detector's own functions, in float32, with all trials in one batch.
"""

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from attractor_ae._detector import Requests, of_trials
from attractor_ae._errors import AttractorError, check_known, optional_package
from attractor_ae._files import atomic_path, check_free
from attractor_ae._reporter import SILENT, Reporter
from attractor_ae.conformal import is_rejected, p_values, p_values_per_class, parse_component
from attractor_ae.core.dynamics import iterate
from attractor_ae.core.masks import DropoutMasks
from attractor_ae.core.scores import entropy, mean_distribution
from attractor_ae.core.spaces import Features
from attractor_ae.data import ImageFormat
from attractor_ae.deploy.model import Model, load_model
from attractor_ae.extractors import make_extractor

FORMATS = ("onnx", "torch")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the format ONNX
ENDINGS = {".onnx": "onnx", ".pt2": "torch"}
OUTPUTS = ("probabilities", "uncertainty", "statistic", "ood_score", "p_value", "unknown")
TOLERANCE = 1e-4
"""Largest difference from the library, absolute, and relative to numbers above 1."""
METADATA = "attractor_ae"
"""Key of the metadata, which are JSON."""


def export_model(
    file: str | Path,
    out: str | Path,
    *,
    form: str = "onnx",
    again: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Write a model as a graph, and its dropout masks next to it (``attractor-ae export``).

    Inputs of the graph are ``images``, uint8 of any number n in the model's format; ``alpha``, a
    float64; and ``mask_0``, ``mask_1``, ..., the arrays of the file of masks. Outputs are those of
    docs/export.md. They are compared with the library's before anything is written.

    Args:
        file: Model file.
        out: File to write; the masks are written to the same name with the ending ``.masks.npz``.
        form: "onnx", or "torch" for a program that `torch.export.load` reads.
        again: Replace ``out``.
        reporter: Receives a note, as it takes a minute or two.

    Returns:
        The metadata of the graph.

    Raises:
        AttractorError: If a file exists or cannot be written, the format is unknown, a package of
            the extra ``export`` is missing, the model has masks per image, or the outputs are not
            the library's.
    """
    out = Path(out)
    stored_masks = out.with_suffix(".masks.npz")
    check_known("format", form, FORMATS)
    if out.suffix not in ENDINGS:
        raise AttractorError(f"{out}: has an unknown ending; give {' or '.join(ENDINGS)}")
    if form != ENDINGS[out.suffix]:
        raise AttractorError(f"{out}: does not name {form}; add --format {ENDINGS[out.suffix]}")
    check_free(out, again)
    for package in PACKAGES if form == "onnx" else ():
        optional_package(package, "export", "export to ONNX")
    model = load_model(file, device="cpu")
    detector = model.detector
    if detector.mask_scope == "sample":
        raise AttractorError(
            f"{file}: draws masks per image, which are not a part of the model; fit it with --set "
            "evaluation.mask_scope=trial"
        )
    detector.precision = "float32"
    contiguous: Any = torch.contiguous_format  # PyTorch warns when it saves another one
    detector.network.to(memory_format=contiguous)
    trials = zip(*(masks.sites for masks in detector._masks(0, 1)), strict=True)
    masks = [torch.cat(of_site).contiguous() for of_site in trials]  # (trials, ...) per site
    arrays: dict[str, Any] = {f"mask_{i}": mask.numpy() for i, mask in enumerate(masks)}
    check_free(stored_masks, again or _same_arrays(stored_masks, arrays))
    reporter.note("converting the model and checking the graph: a minute or two")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            program = _program(model, masks)
            graph = _Onnx(program, len(masks)) if form == "onnx" else _Torch(program)
    except Exception as error:  # of any class, for networks that PyTorch cannot trace
        reason = str(error).strip().partition("\n")[0][:200]
        raise AttractorError(
            f"{file}: PyTorch cannot export this model ({type(error).__name__}: {reason}); fit it "
            "with another model.extractor"
        ) from error
    check = _checked(graph, model, masks, file)
    metadata = _described(model, form, check, stored_masks.name)
    with atomic_path(stored_masks) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, **arrays)
    with atomic_path(out) as temporary:
        graph.save(temporary, json.dumps(metadata))
    return metadata


def _same_arrays(path: Path, arrays: dict[str, Any]) -> bool:
    """Tell whether a file has these arrays, as after the export to the other format."""
    try:
        stored = dict(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError, BadZipFile):
        return False
    return stored.keys() == arrays.keys() and all(
        np.array_equal(stored[name], arrays[name]) for name in arrays
    )


class Graph(nn.Module):
    """The scoring of a model, with masks and threshold as inputs; only to be traced."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._detector = model.detector
        self.network = model.detector.network
        _, self._known, self._groups = model.ranking(model.alpha, model.per_class)
        space = self.network.space
        self.extractor = make_extractor(space.name) if isinstance(space, Features) else None

    def forward(self, images: UInt8[Tensor, "n c h w"], alpha: Tensor, *masks: Tensor) -> Any:  # noqa: ANN401
        """Return ``OUTPUTS``; a mask has the masks of all trials, (trials, ...)."""
        detector, r = self._detector, self._detector.recursion
        x = images.float() / 255
        x = x if self.extractor is None else self.extractor(x)
        points, trials = self.network.space.points(x), len(masks[0])
        parts = [parse_component(component, r) for component in detector.ood_.components]
        wanted = Requests({name: [at for n, at in parts if n == name] for name, _ in parts}, [r])
        repeated = points.expand(trials, *points.shape).flatten(0, 1)
        path = iterate(self.network, repeated, DropoutMasks(masks), wanted.recursions)
        found, distributions = detector.scored(x, points, of_trials(path, trials), wanted)
        values = [found[name][wanted.scores[name].index(at)].double() for name, at in parts]
        p, values = distributions[0], torch.stack(values)
        mean = mean_distribution(p)
        statistic = detector.ood_.statistic(values, r)
        rank = p_values_per_class(statistic, mean.argmax(-1), self._known, self._groups)
        unknown = is_rejected(rank, alpha)
        ood_score = detector.ood_(values, r)
        return mean, entropy(p), statistic, ood_score, rank, unknown


def _program(model: Model, masks: Sequence[Tensor]) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *model.image_format.shape, dtype=torch.uint8)
    alpha = torch.tensor(model.alpha, dtype=torch.float64)
    n = torch.export.Dim("n", max=2**16)
    shapes = ({0: n}, None, (None,) * len(masks))
    return torch.export.export(
        Graph(model).eval(), (images, alpha, *masks), dynamic_shapes=shapes, strict=False
    )


class _Onnx:
    """A graph of ONNX, computed by onnxruntime."""

    def __init__(self, program: torch.export.ExportedProgram, masks: int) -> None:
        names = ["images", "alpha", *(f"mask_{i}" for i in range(masks))]
        made = torch.onnx.export(
            program, input_names=names, output_names=OUTPUTS, dynamo=True, verbose=False
        )
        assert made is not None
        self._proto, self._names = made.model_proto, names
        runtime = optional_package("onnxruntime", "export", "export to ONNX")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = runtime.InferenceSession(self._proto.SerializeToString(), options)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        given = [tensor.numpy() for tensor in inputs]
        found = self._session.run(list(OUTPUTS), dict(zip(self._names, given, strict=True)))
        return [torch.from_numpy(np.asarray(array)) for array in found]

    def save(self, path: Path, metadata: str) -> None:
        self._proto.metadata_props.add(key=METADATA, value=metadata)
        path.write_bytes(self._proto.SerializeToString())


class _Torch:
    """A program of `torch.export`."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program, file = program, io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        self._loaded = torch.export.load(file).module()  # what a user will load

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        return list(self._loaded(*inputs))

    def save(self, path: Path, metadata: str) -> None:
        with path.open("wb") as file:
            torch.export.save(self._program, file, extra_files={METADATA: metadata})


def _checked(
    graph: _Onnx | _Torch, model: Model, masks: Sequence[Tensor], file: str | Path
) -> dict[str, Any]:
    """Compare the outputs of a graph with those of the library; return the largest differences."""
    images, r = _made_up(model.image_format), model.detector.recursion
    alpha = torch.tensor(model.alpha, dtype=torch.float64)
    parts = [graph(some, alpha, *masks) for some in images.split([1, len(images) - 1])]
    joined = map(torch.cat, zip(*parts, strict=True))
    found: dict[str, Tensor] = dict(zip(OUTPUTS, joined, strict=True))
    components = model.ood.components
    own = model.detector.predict_scores(model.inputs(images), [*components, "entropy"], [r])
    t = model.ood.statistic(torch.stack([own.scores[name][0] for name in components]), r)
    label, score = found["probabilities"].argmax(-1), found["ood_score"]
    _, known, groups = model.ranking(model.alpha, model.per_class)
    # The p-value is a step function of the statistic, which may differ by the tolerance.
    margin = TOLERANCE * t.abs().clamp_min(1)
    low, high = (p_values_per_class(x, label, known, groups) for x in (t + margin, t - margin))
    least, most = (1 - p_values(x, known.sort().values) for x in (t - margin, t + margin))
    expected = {
        "probabilities": own.probabilities[0],
        "uncertainty": own.scores["entropy"][0],
        "statistic": t,
        "p_value": found["p_value"].clamp(low, high),
        "ood_score": score.clamp(least, most),
        "unknown": is_rejected(found["p_value"], model.alpha).double(),
    }
    differences = {
        name: float(((found[name].double() - value).abs() / value.abs().clamp_min(1)).max())
        for name, value in expected.items()
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN, too
            raise AttractorError(
                f"{file}: {name} of the exported graph differs by {difference:.1e} from that of "
                "the library, and nothing was written; use another format, or other versions of "
                "torch and onnxruntime"
            )
    return {"images": len(images), "tolerance": TOLERANCE, "largest_differences": differences}


def _made_up(form: ImageFormat, count: int = 32) -> Tensor:
    """Return images from smooth to noisy, always the same."""
    rng, size = torch.Generator().manual_seed(0), (form.size, form.size)
    coarse = [torch.rand(1, form.channels, 2 + i, 2 + i, generator=rng) for i in range(count)]
    images = [F.interpolate(image, size, mode="bilinear") for image in coarse]
    return (torch.cat(images) * 255).round().byte()


def _described(model: Model, form: str, check: dict[str, Any], masks: str) -> dict[str, Any]:
    packages = ("attractor-ae", "torch", *(PACKAGES if form == "onnx" else ()))
    return {
        "preprocessing": {
            **asdict(model.image_format),
            "resampling": "bilinear, as Image.resize of Pillow",
            "layout": "uint8 (n, channels, height, width)",
        },
        "classes": [model.classes[label] for label in model.detector.classes_.tolist()],
        "alpha": model.alpha,
        "calibration_images": model.calibration_images,
        "masks": masks,
        "model_sha256": model.digest,
        "extractor": model.extractor,
        "versions": {package: version(package) for package in packages},
        "check": check,
    }
