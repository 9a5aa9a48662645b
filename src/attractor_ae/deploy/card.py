"""The model card: what a model file contains, as Markdown."""

from pathlib import Path

from attractor_ae._reporter import percent
from attractor_ae.conformal import LEAST_PER_CLASS
from attractor_ae.data import ImageFormat
from attractor_ae.deploy.evaluation import Rate
from attractor_ae.deploy.model import Model
from attractor_ae.experiment.config import SPACE_NAMES

_ROWS = 50  # of the table of classes
_LINES = 10  # classes on the terminal and in sentences
_PER_CLASS = {
    True: "An image is ranked among the calibration images of its predicted class, if there are at "
    f"least {LEAST_PER_CLASS} (not with `score --together`)",
    False: "An image is ranked among all calibration images; `score --per-class` keeps the rate "
    f"for each predicted class with at least {LEAST_PER_CLASS} of them",
}


def card_path(out: Path) -> Path:
    """Return the path of the model card of a model file."""
    return out.with_name(f"{out.name}.md")


def model_card(model: Model, name: str) -> str:
    """Return the card of a model (Mitchell et al., "Model cards for model reporting", 2019)."""
    facts, form = model.facts, model.image_format
    trained, calibration = facts["training"], facts["calibration"]
    colour = "colour" if form.channels == 3 else "grey"
    check, evaluation = facts["self_check"], facts.get("evaluation")
    lines = [
        f"# {Path(name).name}",
        "",
        "Decides whether an image is of a known kind, and predicts its class. Made by attractor-ae "
        f"{facts['environment']['packages']['attractor-ae']} on "
        f"{facts['environment']['created'][:10]}.",
        "",
        "## Use",
        "",
        f"    attractor-ae score {Path(name).name} FOLDER --out verdicts.csv",
        "",
        f"* Images are converted to {colour}, {form.size} x {form.size} pixels ({_aspect(form)}).",
        f"* At {model.threshold()}.",
        *([f"* {_PER_CLASS[model.per_class]}."] if len(model.classes) > 1 else []),
        "* The rate holds for new images from the same source as the calibration images. It says "
        "nothing about how many unknown images are detected: measure that with "
        "`attractor-ae evaluate MODEL --known DIR --unknown DIR`.",
        "",
        "## Data",
        "",
        "| class | training | calibration | false alarms | of test images |",
        "|---|---|---|---|---|",
    ]
    alarms, of_test = false_alarms(model)
    lines += [
        f"| {_cell(label)} | {trained['per_class'].get(label, 0)} | "
        f"{calibration['per_class'].get(label, 0)} | "
        f"{alarms.get(label, '')} | {of_test.get(label, '')} |"
        for label in model.classes[:_ROWS]
    ]
    if len(model.classes) > _ROWS:
        lines.append(f"| {len(model.classes) - _ROWS} more | | | | |")
    lines.append(f"| all | {trained['images']} | {calibration['images']} | | |")
    lines += ["", "False alarms: each calibration image is ranked among the others.", ""]
    lines += [f"* {line.strip()}" for line in facts.get("audit", ())]
    lines += ["", "## Network", "", f"* It works on {SPACE_NAMES[facts['space']]}."]
    if extractor := model.extractor:
        lines.append(
            f"* Extractor: {extractor['name']}, licence of the weights: {extractor['licence']}, "
            f"SHA-256 {extractor['digest']}."
        )
    if check:
        lines.append(f"* Self-check: {check['self_check']}.")
        if check.get("accuracy") is not None:
            lines[-1] += (
                f" Accuracy {percent(check['accuracy'])} (guessing: {percent(check['chance'])}) on "
            )
            lines[-1] += f"{check['images']} {check['part']} images."
        lines += [f"  * {_cell(reason)}" for reason in check.get("failures", ())]
    if evaluation:
        lines += ["", "## Measured on held-out images", ""]
        lines += [
            f"* {name}: {Rate(*counts)}"
            for name, counts in evaluation.items()
            if counts and name != "per_class"
        ]
    digest = f"Digest of the model file, with zeros in its place: `{model.digest}` (SHA-256)"
    return "\n".join([*lines, "", digest, ""])


def false_alarms(model: Model) -> tuple[dict[str, Rate], dict[str, Rate]]:
    """Return the false alarms of each class: of calibration images, and of test images if any.

    Each calibration image is ranked among the others (leave-one-out).
    """
    calibration = model.facts["calibration"]
    rejected = calibration.get("rejected", {})
    known = {c: Rate(rejected[c], n) for c, n in calibration["per_class"].items() if c in rejected}
    measured = model.facts.get("evaluation", {}).get("per_class", {})
    return known, {label: Rate(*counts) for label, counts in measured.items()}


def false_alarm_lines(model: Model) -> list[str]:
    """Return the false alarms of each class as lines of text, the classes with most of them."""
    lines: list[str] = []
    parts = ("calibration images, each ranked among the others", "test images")
    for part, rates in zip(parts, false_alarms(model), strict=True):
        ordered = sorted(rates.items(), key=lambda item: -item[1].count / max(item[1].of, 1))
        if len(ordered) > 1:
            lines.append(f"false alarms per class of {part}:")
            lines += [f"  {label}: {rate}" for label, rate in ordered[:_LINES]]
        if len(ordered) > _LINES:
            lines.append(f"  {len(ordered) - _LINES} more classes with at most as many")
    return lines


def _aspect(form: ImageFormat) -> str:
    if form.crop:
        return "the centre"
    return "padded to a square" if form.pad else "height and width scaled independently"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
