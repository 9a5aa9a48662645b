"""The model card: what a model file contains, as Markdown."""

from pathlib import Path

from attractor_ae.data import ImageFormat
from attractor_ae.deploy.evaluation import Rate
from attractor_ae.deploy.model import Model

_ROWS = 50  # of the table of classes
_SPACES = {
    "pixels": "pixels",
    "standardised": "pixels with standardised brightness and contrast",
    "features": "the features of a pretrained network",
}


def model_card(model: Model, name: str) -> str:
    """Return the card of a model, after Mitchell et al., "Model cards for model reporting", 2019.

    Args:
        model: The model.
        name: Name of the model file, for the title.
    """
    facts, form = model.facts, model.image_format
    trained, calibration = facts["training"], facts["calibration"]
    colour = "colour" if form.channels == 3 else "grey"
    check, evaluation = facts["self_check"], facts.get("evaluation")
    lines = [
        f"# {Path(name).name}",
        "",
        f"Says of an image whether it is of a known kind, and its class. Made by attractor-ae "
        f"{facts['environment']['packages']['attractor-ae']} on "
        f"{facts['environment']['created'][:10]}.",
        "",
        "## Use",
        "",
        f"    attractor-ae score {Path(name).name} FOLDER --out verdicts.csv",
        "",
        f"* Images are converted to {colour}, {form.size} x {form.size} pixels ({_aspect(form)}).",
        f"* {_sentence(model.threshold())}.",
        "* The rate holds for new images of the same source as the calibration images. It says "
        "nothing about how many unknown images are detected: measure that with "
        "`attractor-ae evaluate MODEL --known DIR --unknown DIR`.",
        "",
        "## Data",
        "",
        "| class | training | calibration |",
        "|---|---|---|",
    ]
    lines += [
        f"| {_cell(label)} | {trained['per_class'].get(label, 0)} | "
        f"{calibration['per_class'].get(label, 0)} |"
        for label in model.classes[:_ROWS]
    ]
    if len(model.classes) > _ROWS:
        lines.append(f"| {len(model.classes) - _ROWS} more | | |")
    lines.append(f"| all | {trained['images']} | {calibration['images']} |")
    lines += ["", *(f"* {line.strip()}" for line in facts.get("audit", ()))]
    lines += ["", "## Network", "", f"* It works on {_SPACES[facts['space']]}."]
    if extractor := model.extractor:
        lines.append(
            f"* Extractor: {extractor['name']}, licence of the weights: {extractor['licence']}, "
            f"SHA-256 {extractor['digest']}."
        )
    if check:
        lines.append(f"* Self-check: {check['self_check']}.")
        lines += [f"  * {_cell(reason)}" for reason in check.get("failures", ())]
    if evaluation:
        lines += ["", "## Measured on held-out images", ""]
        lines += [f"* {name}: {Rate(*counts)}" for name, counts in evaluation.items() if counts]
    digest = f"Digest of the model file, with zeros in its place: `{model.digest}` (SHA-256)"
    return "\n".join([*lines, "", digest, ""])


def _aspect(form: ImageFormat) -> str:
    if form.crop:
        return "the centre"
    return "padded to a square" if form.pad else "height and width scaled independently"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
