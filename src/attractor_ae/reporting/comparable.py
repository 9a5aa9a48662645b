"""Which results can stand side by side: the same images, and one way of reporting a method."""

from collections.abc import Mapping, Sequence

import numpy as np

from attractor_ae._errors import AttractorError, unknown_name
from attractor_ae.experiment.result import DatasetScores, EvaluationResult
from attractor_ae.reporting.comparison_table import ComparedMethod

Key = tuple[str, str]
"""Name and split of a data set."""


def key_of(scores: DatasetScores) -> Key:
    """Return what a data set is told from others by."""
    return scores.name, scores.split


def sets_of(result: EvaluationResult) -> tuple[DatasetScores, ...]:
    """Return the scores of D_in, the shifted sets and the D_outs."""
    return (result.in_scores, *result.shift_scores, *result.out_scores)


def compared_method(
    name: str, results: Sequence[EvaluationResult], recursion: int | None, score: str | None
) -> ComparedMethod:
    """Return what is reported of a method, after a check that its results agree on it."""
    reported = {
        (
            result.recursion if recursion is None or recursion >= result.recursions else recursion,
            result.score if score is None else score,
        )
        for result in results
    }
    if len(reported) > 1:
        several = " and ".join(f"{s} at recursion {r}" for r, s in sorted(reported))
        raise AttractorError(
            f"results of {name!r} report {several}; choose one recursion and one score"
        )
    seeds = tuple(_seed(result) for result in results)
    for seed in seeds:
        if seed is not None and seeds.count(seed) > 1:
            raise AttractorError(
                f"results of {name!r} have the seed {seed} twice; give each run once, and another "
                "name to another method"
            )
    ((reported_recursion, reported_score),) = reported
    for result in results:
        if reported_score not in result.score_names:
            error = unknown_name("score", reported_score, result.score_names)
            raise AttractorError(f"{name}: {error}")
    return ComparedMethod(name, seeds, reported_recursion, reported_score)


def _seed(result: EvaluationResult) -> int | None:
    """Return the seed that a result was trained with, if its provenance tells."""
    value = result.provenance
    for key in ("experiment", "training", "seed"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else None


def check_recursion(
    results: Mapping[str, Sequence[EvaluationResult]], recursion: int | None
) -> None:
    """Check that a recursion, if one is chosen, was evaluated of some method."""
    most = max(result.recursions for found in results.values() for result in found)
    if recursion is not None and not 0 <= recursion < most:
        raise AttractorError(
            f"recursion {recursion} was evaluated of no method; choose one of 0..{most - 1}"
        )


def check_same_images(results: Mapping[str, Sequence[EvaluationResult]]) -> None:
    """Check that equal names stand for equal images, and that there is one D_in."""
    seen: dict[tuple[str, Key], tuple[str, DatasetScores]] = {}
    first: tuple[str, EvaluationResult] | None = None
    for name, found in results.items():
        if not found:
            raise AttractorError(f"method {name!r} has no results; evaluate it, or leave it out")
        for result in found:
            first = first or (name, result)
            ours, theirs = result.in_scores, first[1].in_scores
            if key_of(ours) != key_of(theirs):
                raise AttractorError(
                    f"{name!r} was measured on {ours.name} ({ours.split}), {first[0]!r} on "
                    f"{theirs.name} ({theirs.split}); compare methods on the same D_in"
                )
            if result.classes != first[1].classes:
                raise AttractorError(
                    f"{name!r} and {first[0]!r} know other classes of {ours.name}; compare methods "
                    "that were trained on the same classes"
                )
            for scores in sets_of(result):
                where, other = seen.setdefault((scores.role, key_of(scores)), (name, scores))
                if not np.array_equal(scores.labels, other.labels):
                    raise AttractorError(
                        f"{name!r} and {where!r} were measured on other images of {scores.name} "
                        f"({len(scores.labels)} and {len(other.labels)}); evaluate both on the same"
                    )
