"""The parts of a report on evaluated runs."""

import math
from pathlib import Path
from typing import Any

from attractor_ae._detector import Detector
from attractor_ae._errors import AttractorError
from attractor_ae._reporter import SILENT, Reporter, percent
from attractor_ae.baselines import load_detector
from attractor_ae.data import ImageSet
from attractor_ae.experiment.config import SPACE_NAMES, ExperimentConfig
from attractor_ae.experiment.plan import make_plan
from attractor_ae.experiment.result import EvaluationResult
from attractor_ae.experiment.run import Run
from attractor_ae.experiment.trial_curve import TRIALS_FILE, TrialCurve, trial_curve
from attractor_ae.reporting.report import Part, Trained
from attractor_ae.training import training_part

_SAMPLED = 100  # images per set for the curve over trials, if it was not drawn before


def run_part(
    label: str,
    result: EvaluationResult,
    run: Run | None,
    *,
    data_root: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Part:
    """Return the part on an evaluated run or ensemble; without a run, on its scores alone.

    If images of the evaluation are missing, a note says so, and there are no galleries.
    """
    made, known = result.provenance, result.in_scores
    facts = {"method": f"{result.method}, score {result.score}, recursion {result.recursion}"}
    more: dict[str, Any] = {}
    if experiment := made.get("experiment"):
        config = ExperimentConfig.from_dict(experiment, label)
        facts["network"] = f"{config.model.type} on {SPACE_NAMES[config.model.space]}"
        n, epochs = len(result.classes), config.training.epochs
        facts["training"] = f"{config.dataset.name}, {n} class{'es' * (n > 1)}, "
        facts["training"] += f"{epochs} epoch{'s' * (epochs != 1)}, seed {config.training.seed}"
        if run is not None:
            more["detector"] = detector = load_detector(run.detector_file)
            facts["masks"] = f"{detector.trials}, recursions: {detector.recursions}"
            try:
                plan = make_plan(config, data_root)
                shown = (plan.in_dataset, *plan.covariate_shift, *plan.out)
                sets = [plan.load(planned, reporter) for planned in shown]
                trained, kept = training_part(config, plan.load_training(reporter))
                more["images"] = sets
                picture = trained.images.__getitem__
                more["trained"] = Trained(trained.labels, trained.classes, picture)
                facts["training"] += f"; {len(trained)} images, and {len(kept)} for the calibration"
                more["trials"] = _trials(run, result, sets, detector)
            except AttractorError as error:
                more["notes"] = [f"Without images: {error}"]
    facts["known images"] = f"{known.name} ({known.split}), {len(known.labels)} images"
    if not math.isnan(accuracy := result.accuracy()):
        facts["known images"] += f", accuracy {percent(accuracy)}"
    if "packages" in made:
        facts["made"] = (
            f"{made['created'][:10]} by attractor-ae {made['packages']['attractor-ae']} on "
            f"{made['device_name']}, PyTorch {made['packages']['torch']}"
        )
    (check,) = made.get("self_checks", [])[:1] or [{}]
    return Part(f"{label} on {known.name}", facts, check, result=result, **more)


def _trials(
    run: Run, result: EvaluationResult, sets: list[ImageSet], detector: Detector
) -> TrialCurve | None:
    path = run.evaluation_folder / TRIALS_FILE
    if path.is_file():
        return TrialCurve.load(path)
    outs = sets[len(sets) - len(result.out_scores) :]
    if not outs or detector.trials == 1:
        return None
    few = [images.at_most(_SAMPLED) for images in (sets[0], *outs)]
    return trial_curve(detector, few[0], few[1:])
