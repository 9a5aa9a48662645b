"""Results of the seeds of a method."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attractor_ae._errors import AttractorError
from attractor_ae.experiment.result import DatasetScores, EvaluationResult

Results = EvaluationResult | Sequence[EvaluationResult] | Mapping[str, Sequence[EvaluationResult]]
"""One result, several results (grouped by method), or method name -> results. Results of one method
are those of its seeds: figures refuse other data sets, recursions or scores."""


def by_method(results: Results) -> dict[str, tuple[EvaluationResult, ...]]:
    """Return the results of each method, one per seed, in the given order."""
    if isinstance(results, EvaluationResult):
        results = [results]
    if isinstance(results, Mapping):
        methods = {name: tuple(found) for name, found in results.items()}
    else:
        methods: dict[str, tuple[EvaluationResult, ...]] = {}
        for result in results:
            methods[result.method] = (*methods.get(result.method, ()), result)
    if not methods or not all(methods.values()):
        raise AttractorError("there are no results to draw; give at least one per method")
    for name, seeds in methods.items():
        first = _drawn(seeds[0])
        for other in seeds[1:]:
            for what, value in _drawn(other).items():
                if value != first[what]:
                    raise AttractorError(
                        f"results of {name} have {what} {first[what]} and {value}, so they are not "
                        "seeds of one experiment; give each experiment a different name"
                    )
    return methods


def labelled_scores(result: EvaluationResult) -> DatasetScores:
    """Return `EvaluationResult.known_scores`, or raise an AttractorError if there are no labels."""
    scores = result.known_scores()
    if not len(scores.labels):
        raise AttractorError(f"no image of {scores.name} ({scores.split}) has a label")
    return scores


def mean_and_deviation(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and population standard deviation over the first axis, ignoring NaN."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(np.nanmean(array, axis=0)), np.asarray(np.nanstd(array, axis=0))


def stated(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean over seeds as text, with the deviation if there are several seeds."""
    mean, deviation = mean_and_deviation(values)
    spread = f" ± {deviation:.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def _drawn(result: EvaluationResult) -> dict[str, object]:
    """Return the properties that must be equal for all seeds of a method."""
    return {
        "D_in": result.in_scores.name,
        "D_outs": [scores.name for scores in result.out_scores],
        "sets under covariate shift": [scores.name for scores in result.covariate_shift_scores],
        "recursions": result.recursions,
        "reported recursion": result.recursion,
        "score": result.score,
    }
