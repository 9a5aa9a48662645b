"""The report as a file: what its numbers are, and that it needs nothing else."""

import dataclasses
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from attractor_ae import AttractorError
from attractor_ae.conformal import p_values
from attractor_ae.experiment.report import run_part
from attractor_ae.metrics import exact_interval
from attractor_ae.reporting.report import Part, positions, save_report

VOID = {"meta", "img", "br", "input", "path", "rect"}


class Page(HTMLParser):
    """Tags of a page with their attributes, and the text of each element that is not nested."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(((self.open or [""])[-1], data.strip()))

    def data(self):
        """The numbers at every step of each threshold."""
        return [json.loads(text) for tag, text in self.texts if tag == "script" and text[:1] == "{"]


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return Page(save_report(path, [run_part("method", result, None)], "A report"))


def test_the_page_needs_nothing_else(page):
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_what_is_drawn_has_a_text(page):
    drawn = [a for tag, a in page.tags if tag == "img" or a.get("role") == "img"]
    assert len(drawn) > 5
    assert all(a.get("alt") or a.get("aria-label") for a in drawn)


def test_the_decisions_are_those_of_the_stored_scores(page, result):
    (data,) = page.data()
    sets = [("in", result.in_scores), *(("in", s) for s in result.covariate_shift_scores)]
    sets += [("out", s) for s in result.out_scores]
    assert len(data["sets"]) == len(sets)
    u0 = result.in_scores.score(1)
    for step in (0, 30, 60, len(data["steps"]) - 1):
        at = np.quantile(u0, 0.95) * step / 60
        assert float(data["steps"][step]) == pytest.approx(at, rel=5e-3)
        for (role, scores), steps in zip(sets, data["sets"], strict=True):
            u = scores.score(1)
            rejected = int((u >= at - 1e-9).sum())
            wrong = rejected if role == "in" else len(u) - rejected
            exact = binomtest(wrong, len(u)).proportion_ci(0.95, method="exact")
            assert steps[step][0] == rejected
            found = [rate / 1000 for rate in steps[step][1:]]
            assert found == pytest.approx([wrong / len(u), exact.low, exact.high], abs=6e-4)


def test_rates_of_the_table_are_those_of_the_result(page, result):
    shown = [text for tag, text in page.texts if tag == "span"]
    for scores in (*result.covariate_shift_scores, *result.out_scores):
        rates = result.rates(scores.name)
        for rate in (rates.auroc, rates.aupr_in, rates.fpr95_in):
            assert f"{100 * rate:.1f}" in shown


@pytest.mark.parametrize(("count", "of"), [(0, 7), (7, 7), (3, 40), (1, 1), (0, 0)])
def test_intervals_are_scipys(count, of):
    low, high = exact_interval(np.array([count]), of)
    if of:
        exact = binomtest(count, of).proportion_ci(0.95, method="exact")
        assert (low[0], high[0]) == pytest.approx((exact.low, exact.high))
    else:
        assert (low[0], high[0]) == (0, 1)


def test_positions_of_ood_scores_are_conformal_p_values():
    rng = np.random.default_rng(0)
    known, new = (torch.from_numpy(rng.normal(size=n)) for n in (99, 300))
    p = p_values(new, known.sort().values)
    finer = torch.from_numpy(rng.uniform(0, 1e-3, 300)) / 100  # ranks equal ones (`conformal`)
    score = 1 - (p + finer).clamp_max(1)
    x = positions(score.numpy(), 99)
    np.testing.assert_allclose(10**-x, p)
    # Also exactly at alpha = 0.05, where 5 of 100 p-values end.
    assert (x >= -math.log10(0.05) - 1e-9).sum() == (p <= 0.05 + 1e-9).sum()
    np.testing.assert_array_equal(positions(score.numpy(), 0), score.numpy())


def test_names_are_text(result, tmp_path):
    name = "</script><b onclick='x'>&"
    (first, *rest) = result.out_scores
    outs = (dataclasses.replace(first, name=name), *rest)
    changed = dataclasses.replace(result, out_scores=outs, method=name, _computed={})
    found = Page(save_report(tmp_path / "r.html", [run_part(name, changed, None)], name))
    assert "b" not in {tag for tag, a in found.tags if a.get("onclick")}
    assert any(name in text for _, text in found.texts)


def test_several_parts_have_links(result, tmp_path):
    parts = [run_part(name, result, None) for name in ("one", "two")]
    found = Page(save_report(tmp_path / "r.html", parts, "two"))
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    ids = [a["id"] for tag, a in found.tags if tag == "article"]
    assert links == [f"#{name}" for name in ids]
    assert len(links) == 2


def test_scores_that_are_all_alike_are_drawn(result, tmp_path):
    p = np.full_like(result.in_scores.probabilities, 0.25)
    same = dataclasses.replace(result.in_scores, probabilities=p)
    changed = dataclasses.replace(
        result, in_scores=same, covariate_shift_scores=(), out_scores=(), _computed={}
    )
    (data,) = Page(save_report(tmp_path / "r.html", [run_part("a", changed, None)], "a")).data()
    assert {step[0] for step in data["sets"][0]} == {60}


def test_a_part_without_anything_is_a_page(tmp_path):
    found = Page(save_report(tmp_path / "r.html", [Part("empty", {})], "empty"))
    assert found.data() == []


def test_a_folder_that_cannot_be_written_is_named(result, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AttractorError, match="file"):
        save_report(tmp_path / "file" / "r.html", [Part("empty", {})], "empty")
