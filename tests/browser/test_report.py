"""The report in a browser: what a reader sees and moves."""

from pathlib import Path

import pytest
from scipy.stats import binomtest
from small_models import make_run

from attractor_ae import EvaluationResult, write_report

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
CALIBRATION = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "digits")


@pytest.fixture(scope="module")
def report(run):
    return write_report(run.path, run.path / "report.html")


@pytest.fixture
def opened(browser, report):
    """A function that opens the report; errors and foreign requests fail the test."""
    complaints, pages = [], []

    def open_page(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(report.as_uri())
        pages.append(page)
        return page

    requested = []
    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert {url for url in requested if not url.startswith("data:")} == {report.as_uri()}


def check_accessible(page):
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read_by_everyone(opened, width, scheme):
    page = opened(width, scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check_accessible(page)
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    page.locator(".tile").first.click()
    page.screenshot(path=SCREENSHOTS / f"report-{width}-{scheme}-image.png")
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def expected(run, step):
    """Numbers of each set at a step of the threshold, from the stored scores."""
    result = EvaluationResult.load(run.evaluation_folder)
    alpha = 0.05 ** (step / 60)
    rows = []
    for scores in result.sets:
        # An OOD score is 1 - p, less at most a thousandth of one of the counts.
        p = 1 - scores.score(result.recursion, "ood_score") - 1e-3 / (CALIBRATION + 1)
        rejected = int((p <= alpha + 1e-9).sum())
        wrong = rejected if scores.role == "in" else len(p) - rejected
        ends = binomtest(wrong, len(p)).proportion_ci(0.95, method="exact")
        rows.append(
            (len(p) - rejected, rejected, 100 * wrong / len(p), 100 * ends[0], 100 * ends[1])
        )
    return rows


def shown(page):
    rows = []
    for row in page.locator(".decisions tbody tr").all():
        cells = [row.locator(f".{name}").inner_text() for name in ("accepted", "rejected", "rate")]
        low, high = row.locator(".ends").inner_text().split(" to ")
        rows.append(tuple(map(float, (*cells, low, high))))
    return rows


def check_numbers(page, run):
    step = int(page.locator(".slider input").input_value())
    for found, wanted in zip(shown(page), expected(run, step), strict=True):
        assert found == pytest.approx(wanted, abs=0.0501)
    alpha = float(page.locator(".slider output").inner_text())
    assert alpha == pytest.approx(0.05 ** (step / 60), rel=5e-3)
    return step


def test_the_threshold_is_moved_by_the_keyboard(opened, run):
    page = opened()
    slider = page.locator(".slider input")
    assert check_numbers(page, run) == 60
    before = shown(page)
    slider.focus()
    for _ in range(25):
        page.keyboard.press("ArrowLeft")
    assert check_numbers(page, run) == 35
    assert shown(page) != before
    assert slider.get_attribute("aria-valuetext") == page.locator(".slider output").inner_text()
    page.keyboard.press("Home")
    assert check_numbers(page, run) == 0
    assert all(row[0] == 0 for row in shown(page))  # at alpha 1, everything is rejected
    page.keyboard.press("End")
    assert check_numbers(page, run) > 60


def test_the_threshold_is_moved_by_the_mouse(opened, run):
    page = opened()
    page.locator(".slider").scroll_into_view_if_needed()
    box = page.locator(".slider input").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, middle, steps=5)
    page.mouse.up()
    step = check_numbers(page, run)
    assert step < 30
    # The shaded part of the histogram begins under the thumb.
    edge = page.locator(".reject").bounding_box()["x"]
    assert edge == pytest.approx(box["x"] + box["width"] * 0.3, abs=8)


def test_an_image_is_opened_and_closed(opened):
    page = opened()
    tile = page.locator(".tile").nth(3)
    tile.click()
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert dialog.locator(".strips img").count() == 3  # two masks, and what moved
    assert dialog.locator(".nearest img").count() == 4
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert tile.evaluate("element => element === document.activeElement")
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_light_and_dark_are_those_of_the_system_or_chosen(opened):
    def background(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = (background(opened(scheme=scheme)) for scheme in ("light", "dark"))
    assert light != dark
    page = opened(scheme="dark")
    page.get_by_role("button", name="Light or dark").click()
    assert background(page) == light
    page.emulate_media(color_scheme="light")
    assert background(page) == light
