"""The app in a browser: what a user uploads, draws and moves, and the numbers that appear."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import FORM, make_model, write_images

from attractor_ae import load
from attractor_ae.data.decode import decode
from attractor_ae.deploy.app import altered, look

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytest.importorskip("gradio")

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
KILOBYTES = 40
SECONDS = 30_000  # in milliseconds, for an answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def model(folder):
    images = load("mnist5k", "train", per_class=12, image_format=FORM)
    rows = np.arange(len(images)).reshape(10, 12)
    known, calibration = (images.take(rows[:, i : i + 6].ravel()) for i in (0, 6))
    made = make_model(known, calibration, trials=4, recursions=3)
    write_images(folder / "parts", known.images, made.nearest)
    write_images(folder / "new", calibration.images[::20])
    made.save(folder / "digits.model")
    return made


@contextmanager
def started(folder):
    """Yield the process of the command and the address of its page."""
    command = [sys.executable, "-m", "attractor_ae", "app", "digits.model", "--port", "0"]
    command += ["--images", "new", "--images", "parts", "--megabytes", str(KILOBYTES / 1024)]
    streams = {"stdout": subprocess.PIPE, "text": True, "cwd": folder, "env": os.environ}
    with subprocess.Popen(command, **streams) as server:
        try:
            yield server, server.stdout.readline().split()[4].rstrip(";")
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address(model, folder):
    with started(folder) as (_, address):
        yield address


@pytest.fixture
def opened(browser, address):
    """A function that opens the app; errors and requests to other machines fail the test."""
    complaints, requested, pages = [], [], []

    def complain(message):
        if message.type == "error":
            complaints.append(message.text)

    def open_page(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(SECONDS)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        page.locator(".view .verdict").wait_for()
        pages.append(page)
        return page

    open_page.complaints = complaints
    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    local = (f"{address}/", "data:", "blob:")
    assert requested
    assert [url for url in requested if not url.startswith(local)] == []


def numbers(page):
    """The p-value, the classes with their percentages, and the recursions with their distances."""
    cells = [page.locator(f"table.{name} tbody tr").all() for name in ("classes", "steps")]
    classes, steps = ([row.locator("th, .number").all_inner_texts() for row in of] for of in cells)
    return page.locator(".view .p").inner_text(), classes, [row[:2] for row in steps]


def expected(view):
    """The same from Python."""
    classes = [[name, f"{100 * p:.1f}"] for name, p in view.probabilities]
    steps = [[str(step.recursion), f"{step.moved:.3f}"] for step in view.steps]
    return f"{view.verdict.p_value:.4g}", classes, steps


def shows(page, view):
    """Wait until the page has the numbers of a view; fail if it never has."""
    for _ in range(SECONDS // 100):
        try:
            if numbers(page) == expected(view):
                break
        except playwright.Error:  # the numbers are being replaced
            pass
        page.wait_for_timeout(100)
    assert numbers(page) == expected(view)
    assert page.locator(".view .verdict").inner_text() == view.verdict.verdict


def first(folder):
    return decode(folder / "new" / "000.png", FORM)


def upload(page, path):
    page.get_by_role("tab", name="Image file").click()
    page.locator("input[type=file]").first.set_input_files(path)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read_by_everyone(opened, model, folder, width, scheme):
    page = opened(width, scheme)
    shows(page, look(model, first(folder)))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for tab in ("Image file", "Drawing", "Examples"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1000)  # until it has moved
        path = SCREENSHOTS / f"app-{width}-{scheme}-{tab.split()[0].lower()}.png"
        page.screenshot(path=path, full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found] == []
    assert page.locator(".view li img").count() == 4
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_an_uploaded_image_gets_its_verdict(opened, model, folder):
    page = opened()
    path = folder / "parts" / model.nearest[25]
    upload(page, path)
    view = look(model, decode(path, FORM))
    shows(page, view)
    assert page.locator(".view li").first.inner_text().startswith(model.nearest[view.nearest[0][0]])


def test_a_broken_image_gets_a_message_and_a_good_one_follows(opened, model, folder):
    page = opened()
    whole = (folder / "new" / "001.png").read_bytes()
    for name, content in {"text.png": b"no image", "cut.png": whole[:80], "0.png": b""}.items():
        (folder / name).write_bytes(content)
        upload(page, folder / name)
        page.get_by_role("alert").filter(has_text="cannot be read").wait_for()
        assert page.locator(".view table").count() == 0
        page.get_by_role("button", name="Clear").click()
        page.get_by_text("Choose an image above").wait_for()
    upload(page, folder / "new" / "001.png")
    shows(page, look(model, decode(whole, FORM)))


def test_a_file_that_is_too_large_is_refused(opened, folder, model):
    page = opened()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    assert (folder / "large.png").stat().st_size > 1024 * KILOBYTES
    upload(page, folder / "large.png")
    page.get_by_text("exceed the maximum allowed size").wait_for()
    shows(page, look(model, first(folder)))  # as before
    opened.complaints.clear()  # Gradio reports the refusal on the console, too
    content = (folder / "large.png").read_bytes()
    file = {"name": "large.png", "mimeType": "image/png", "buffer": content}
    answer = page.request.post(f"{page.url}gradio_api/upload", multipart={"files": file})
    assert answer.status == 413  # whatever the page does


def test_something_is_drawn(opened, model, folder):
    page = opened()
    before = numbers(page)
    page.get_by_role("tab", name="Drawing").click()
    page.get_by_role("button", name="Brush").click()
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y - 60)
    page.mouse.down()
    page.mouse.move(x + 60, y + 60, steps=10)
    page.mouse.up()
    page.wait_for_function(
        "before => document.querySelector('.view .p')?.innerText !== before", arg=before[0]
    )
    assert page.locator(".view .verdict").inner_text() in {"known", "unknown"}
    assert numbers(page) != before


def test_an_example_is_picked_by_the_keyboard(opened, model, folder):
    page = opened()
    page.get_by_role("tab", name="Examples").focus()
    page.keyboard.press("Enter")
    page.locator(".thumbnail-item").nth(2).focus()
    page.keyboard.press("Enter")
    shows(page, look(model, decode(folder / "new" / "002.png", FORM)))


def test_sliders_change_the_numbers_to_what_python_computes(opened, model, folder):
    page, image = opened(), first(folder)
    views = [look(model, image)]
    shows(page, views[0])

    def press(name, key, times):
        page.get_by_role("slider", name=name).focus()
        for _ in range(times):
            page.keyboard.press(key)

    press("Noise", "ArrowRight", 20)
    views.append(look(model, altered(image, 20.0)))
    shows(page, views[-1])
    press("Blur", "ArrowRight", 4)
    press("Occlusion", "ArrowRight", 30)
    views.append(look(model, altered(image, 20.0, 2.0, 30.0)))
    shows(page, views[-1])
    press("Masks", "ArrowLeft", 2)
    views.append(look(model, altered(image, 20.0, 2.0, 30.0), masks=2))
    shows(page, views[-1])
    press("Recursions", "End", 1)
    page.get_by_label("Negative").check()
    views.append(look(model, altered(image, 20.0, 2.0, 30.0, True), 2, 50))
    shows(page, views[-1])
    assert len({str(expected(view)) for view in views}) == len(views)
    assert len({expected(view)[0] for view in views}) > 1


def test_ctrl_c_ends_it_while_a_page_is_open(browser, model, folder):
    with started(folder) as (server, address):
        page = browser.new_page()
        page.goto(address)
        page.locator(".view .verdict").wait_for()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        page.close()
