"""An app in the browser that shows the verdict on an image (extra ``app``).

`look` computes what is shown, without Gradio; `make_app` is the page around it.
"""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from attractor_ae._devices import pixels
from attractor_ae._errors import optional_package
from attractor_ae.attractors import noisy, occluded
from attractor_ae.core.spaces import Features
from attractor_ae.data.decode import UndecodableError, decode, side_by_side
from attractor_ae.deploy._adaptive import stages
from attractor_ae.deploy.model import Model, codes_of
from attractor_ae.deploy.paths import image_paths
from attractor_ae.deploy.verdicts import Verdict

_MASKS, _ROWS = 6, 12  # of the drawn trajectories
_RECURSIONS = 50  # that a slider reaches
_NEAREST = 4
_EXAMPLES = 24  # images to pick from, of each folder


class Step(NamedTuple):
    """Recursion r: x_r under each drawn mask, their mean RMSE to x_0, and the class read at r.

    ``points`` (masks, c, h, w) are None on features; ``label`` is "" without a head.
    """

    recursion: int
    points: NDArray[np.uint8] | None
    moved: float
    label: str
    probability: float


class View(NamedTuple):
    """The view of a model on an image, uint8 (c, h, w), with a number of masks.

    ``probabilities`` of the classes are those of the verdict, ``nearest`` are indices of training
    images with the cosine similarity of their codes, both descending; ``steps`` are at most 13.
    """

    image: NDArray[np.uint8]
    verdict: Verdict
    masks: int
    probabilities: list[tuple[str, float]]
    steps: list[Step]
    nearest: list[tuple[int, float]]


def altered(
    image: NDArray[np.uint8],
    noise: float = 0.0,
    blur: float = 0.0,
    occlusion: float = 0.0,
    negative: bool = False,
    *,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Return an image (c, h, w) with dark and light swapped, occluded, blurred, and with noise.

    ``noise`` is a standard deviation in % of the range from black to white, ``blur`` one in % of
    the height, ``occlusion`` the area of a grey square in the centre in %.
    """
    x = torch.from_numpy((255 - image if negative else image) / np.float32(255))
    x = occluded(x[None], np.array([occlusion / 100]))[0, 0].numpy()
    sigma = blur / 100 * image.shape[1]
    x = torch.from_numpy(gaussian_filter(x, (0, sigma, sigma), mode="mirror"))
    x = noisy(x[None], np.array([noise / 100]), seed=seed)[0, 0]
    return (255 * x.clamp(0, 1)).round().byte().numpy()


def look(
    model: Model,
    image: NDArray[np.uint8],
    masks: int | None = None,
    recursions: int | None = None,
    alpha: float | None = None,
) -> View:
    """Return the view of a model on an image of its format.

    ``masks`` are rounded down to 1, 2, 4, ... or all, for which p-values are calibrated;
    ``recursions`` is the length of the trajectories. Defaults: those of the model.
    """
    detector, every = model.detector, model.detector.trials
    masks = max(n for n in stages(every) if n <= (masks or every))
    trials = None if masks == every else (masks, masks)
    inputs, some = model.inputs(image[None]), detector.some_trials(0, masks)
    (verdict,) = model.score(image[None], alpha=alpha, trials=trials, inputs=inputs)
    p = some.predict_scores(inputs, []).probabilities[:, 0]  # (recursions, classes)
    names = [model.classes[i] for i in detector.classes_.tolist()]
    with torch.no_grad():
        x0 = detector.network.space.points(pixels(inputs, detector.device))
    last = recursions or detector.recursions
    paths = some.trajectory(inputs, last, min(masks, _MASKS))
    x = torch.stack([torch.cat([x0, path.reconstructions[:, 0]]) for path in paths])
    x = x.nan_to_num(nan=0.0).cpu()  # (masks, 1 + recursions, ...)
    moved = (x - x[:, :1]).square().flatten(2).mean(2).sqrt().mean(0).tolist()
    drawn, steps = not isinstance(detector.network.space, Features), []
    for r in np.linspace(0, last, min(last, _ROWS) + 1).round().astype(int).tolist():
        points = (255 * x[:, r].clamp(0, 1)).round().byte().numpy() if drawn else None
        label, value = (names[int(p[r].argmax())], float(p[r].max())) if r < len(p) else ("", 0.0)
        steps.append(Step(r, points, moved[r], label, value))
    classes = zip(names, p[detector.recursion].tolist(), strict=True)
    alike = (codes_of(detector, inputs) @ model.codes.float().T)[0].tolist()
    probable, nearest = (
        sorted(pairs, key=lambda pair: -pair[1]) for pairs in (classes, enumerate(alike))
    )
    return View(image, verdict, masks, probable, steps, nearest[:_NEAREST])


def training_picture(model: Model, row: int, folders: Sequence[str | Path]) -> str:
    """Return a training image as a data URI, or "": its thumbnail, or from the first folder."""
    if model.thumbnails:
        return _data_uri([model.thumbnail(row)])
    for top in (Path(folder).resolve() for folder in folders if model.nearest):
        file = (top / model.nearest[row]).resolve()
        if file.is_relative_to(top):  # the path is from the model file
            with suppress(UndecodableError):
                return _data_uri([decode(file, model.image_format)])
    return ""


def make_app(
    model: Model,
    folders: Sequence[str | Path] = (),
    *,
    alpha: float | None = None,
    largest: int = 32 * 2**20,
) -> Any:  # noqa: ANN401
    """Return the app as an ASGI application, e.g. for uvicorn; it sends nothing elsewhere.

    ``folders`` have images to pick from, and the training images to show; ``largest`` is the
    greatest size of a file in bytes.

    Raises:
        AttractorError: If Gradio is missing, alpha needs more calibration images, or a folder has
            no images.
    """
    gr = optional_package("gradio", "app", "the app")
    from fastapi import FastAPI

    alpha, form, examples = model.checked_alpha(alpha), model.image_format, []
    for folder in folders:
        paths = list(image_paths([folder]))
        for path in paths[:: -(-len(paths) // _EXAMPLES)]:
            with suppress(UndecodableError):
                examples.append(decode(path, form))

    def read(source: Any) -> bytes | str | None:  # noqa: ANN401
        """Return the pixels of an image, or why it cannot be read; Gradio compares such values."""
        try:
            return None if source is None else decode(source, form).tobytes()
        except UndecodableError as error:
            return error.reason

    def picked(event: gr.SelectData) -> bytes:  # type: ignore[valid-type]
        return examples[event.index].tobytes()

    def show(chosen: bytes | str | None, *settings: Any) -> tuple[str, str]:  # noqa: ANN401
        if not isinstance(chosen, bytes):
            return page.render(problem=chosen), ""
        image = altered(np.frombuffer(chosen, np.uint8).reshape(form.shape), *settings[2:])
        view = look(model, image, *settings[:2], alpha=alpha)
        pictures = [training_picture(model, row, folders) for row, _ in view.nearest]
        values = {"model": model, "view": view, "alpha": alpha, "pictures": pictures}
        return page.render(values, summary=True), page.render(values)

    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["picture"] = _data_uri
    page = made.get_template("app.html")
    one = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
    latest = {"trigger_mode": "always_last", "show_progress": "hidden", **one}
    plain = {"layers": False, "transforms": (), "image_mode": "RGB", "type": "pil"}
    grid = {"allow_preview": False, "interactive": False, "height": 260, "buttons": []}
    with gr.Blocks(title="attractor-ae", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        chosen = gr.State(examples[0].tobytes() if examples else None)
        gr.Markdown("# Known or unknown?")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                with gr.Tab("Image file"):
                    file = gr.File(label="Image file", type="binary", height=140)
                    gr.on([file.upload, file.clear], read, file, chosen, **one)
                with gr.Tab("Drawing"):
                    size = {"canvas_size": (320, 320), "height": 440}
                    sketch = gr.Sketchpad(label="Drawing", buttons=[], **plain, **size)
                    sketch.change(lambda of: read(of and of["composite"]), sketch, chosen, **latest)
                if examples:
                    with gr.Tab("Examples"):
                        pictures = [side_by_side([image]) for image in examples]
                        gallery = gr.Gallery(pictures, label="Examples", columns=4, **grid)
                        gallery.select(picked, None, chosen, **one)
                summary = gr.HTML(apply_default_css=False)
                most, r = model.detector.trials, model.detector.recursions
                settings = [
                    gr.Slider(1, most, most, step=1, label="Masks (trials)"),
                    gr.Slider(1, max(r, _RECURSIONS), r, step=1, label="Recursions"),
                    gr.Slider(0, 50, 0, step=1, label="Noise, % of the range from black to white"),
                    gr.Slider(0, 10, 0, step=0.5, label="Blur, % of the height"),
                    gr.Slider(0, 100, 0, step=1, label="Occlusion, % of the area"),
                    gr.Checkbox(label="Negative: dark and light are swapped"),
                ]
            with gr.Column(scale=3, min_width=320):
                details = gr.HTML(apply_default_css=False)
        triggers = [app.load, chosen.change, *(setting.change for setting in settings)]
        gr.on(triggers, show, [chosen, *settings], [summary, details], **latest)
    limits = {"max_file_size": largest, "footer_links": [], "ssr_mode": False, "show_error": False}
    colours = {"body_text_color_subdued": "*neutral_600", "color_accent": "*primary_600"}
    theme = gr.themes.Default(primary_hue="blue").set(**colours)  # the contrast is high enough
    return gr.mount_gradio_app(FastAPI(), app, "/", theme=theme, **limits)


def _data_uri(images: Sequence[NDArray[np.uint8]]) -> str:
    buffer = io.BytesIO()
    side_by_side(images).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
