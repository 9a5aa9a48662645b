"""Which results belong together: the seeds of a method, and the number that they give."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.experiment.result import DatasetScores, EvaluationResult

Results = EvaluationResult | Sequence[EvaluationResult] | Mapping[str, Sequence[EvaluationResult]]
"""One result; several, which are told apart by their method; or the results of each method by the
name that it shall have in the figure. Results of one method are those of its seeds."""


def by_method(results: Results) -> dict[str, tuple[EvaluationResult, ...]]:
    """Return the results of every method, one a seed, in the order in which they come.

    Raises
    ------
    AttractorError
        If there is no result, or those of a method are not of the same sets, recursions and score.
    """
    if isinstance(results, EvaluationResult):
        results = [results]
    if isinstance(results, Mapping):
        methods = {name: tuple(found) for name, found in results.items()}
    else:
        methods: dict[str, tuple[EvaluationResult, ...]] = {}
        for result in results:
            methods[result.method] = (*methods.get(result.method, ()), result)
    if not methods or not all(methods.values()):
        raise AttractorError("there are no results to draw; give at least one of each method")
    for name, seeds in methods.items():
        first = _drawn(seeds[0])
        for other in seeds[1:]:
            for what, value in _drawn(other).items():
                if value != first[what]:
                    raise AttractorError(
                        f"results of {name} have {what} {first[what]} and {value}, so they are not "
                        "seeds of one experiment; give each experiment a name of its own"
                    )
    return methods


def one_method(results: EvaluationResult | Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Return results of one method, or raise an AttractorError if they are of several."""
    methods = by_method(results)
    if len(methods) > 1:
        raise AttractorError(
            f"this figure shows one method, but the results are of {', '.join(methods)}; "
            "draw a figure of each"
        )
    return list(next(iter(methods.values())))


def known_scores(result: EvaluationResult, dataset: str | None) -> DatasetScores:
    """Return the scores of a set whose classes are known: D_in, or a shifted set by its name.

    Raises
    ------
    AttractorError
        If there is no such set.
    """
    sets = {scores.name: scores for scores in (result.in_scores, *result.shift_scores)}
    if dataset is not None and dataset not in sets:
        raise unknown_name("data set of known classes", dataset, sets)
    return result.in_scores if dataset is None else sets[dataset]


def mean_and_deviation(
    values: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and population standard deviation over the first axis, the seeds."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(array.mean(axis=0)), np.asarray(array.std(axis=0))


def stated(values: Sequence[float], digits: int = 3) -> str:
    """Return a number of every seed as text: mean and deviation, or the one number."""
    mean, deviation = mean_and_deviation(values)
    spread = f" ± {deviation:.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def _drawn(result: EvaluationResult) -> dict[str, object]:
    """Return what results that are drawn as one must have in common."""
    return {
        "D_in": result.in_scores.name,
        "D_outs": [scores.name for scores in result.out_scores],
        "shifted sets": [scores.name for scores in result.shift_scores],
        "recursions": result.recursions,
        "reported recursion": result.recursion,
        "score": result.score,
    }
