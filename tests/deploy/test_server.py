"""The HTTP server: its rows are those of `score`, and bad requests end in a message."""

import concurrent.futures
import io
import os
import re
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from at_terminal import error_line, invoke
from PIL import Image
from small_models import write_images
from starlette.testclient import TestClient

from attractor_ae.deploy.server import Limits, make_app


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def upload(*files):
    return [("images", file) for file in files]


@pytest.fixture(scope="module")
def files(small_digits):
    return [(f"{i}.png", png(image[0])) for i, image in enumerate(small_digits[2].images)]


@pytest.fixture
def client(shared_model):
    with TestClient(make_app(shared_model)) as client:
        yield client


def test_rows_are_those_of_score(client, shared_model, small_digits, files, tmp_path):
    paths = write_images(tmp_path, small_digits[2].images[:5])
    answer = client.post("/score", params={"scores": True}, files=upload(*files[:5]))
    assert answer.status_code == 200
    expected = list(shared_model.score_files(paths))
    for row, verdict, (name, _) in zip(answer.json(), expected, files[:5], strict=True):
        wanted = verdict.row(parts=True) | {"path": name}
        assert {k: v for k, v in row.items() if isinstance(v, str)} == {
            k: v for k, v in wanted.items() if isinstance(v, str)
        }
        for column, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(wanted[column], rel=1e-5), column


def test_a_broken_image_is_unscored_among_others(client, files):
    damaged = ("cut.png", files[0][1][:60])
    rows = client.post("/score", files=upload(files[0], damaged, ("e", b""))).json()
    assert [row["verdict"] == "unscored" for row in rows] == [False, True, True]
    assert rows[1]["reason"]
    assert "empty" in rows[2]["reason"]
    text = client.get("/metrics").text
    assert re.search(r'attractor_ae_verdicts_total\{verdict="unscored"\} 2', text)


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        ({"data": {"images": "no file"}}, 422),
        ({"content": b"junk"}, 422),
        ({"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({}, 422),
    ],
)
def test_malformed_requests_are_refused(client, request_of, code):
    assert client.post("/score", **request_of).status_code == code
    assert client.get("/health").json()["status"] == "ok"


def test_limits_of_bytes_pixels_and_queue(shared_model, files):
    limits = Limits(bytes=20_000, pixels=100 * 100, queue=2)
    with TestClient(make_app(shared_model, limits=limits)) as client:
        noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
        assert client.post("/score", files=upload(("large.png", png(noise)))).status_code == 413
        large = ("plain.png", png(np.zeros((101, 100), np.uint8)))
        (row,) = client.post("/score", files=upload(large)).json()
        assert "100 x 101 pixels" in row["reason"]
        answer = client.post("/score", files=upload(*files[:3]))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.post("/score", files=upload(*files[:2])).status_code == 200


def test_a_request_ends_after_its_time(shared_model, files, monkeypatch):
    monkeypatch.setattr(type(shared_model), "score", lambda *_, **__: time.sleep(0.5))
    with TestClient(make_app(shared_model, limits=Limits(seconds=0.1))) as client:
        assert client.post("/score", files=upload(files[0])).status_code == 504


def test_an_error_in_scoring_ends_no_other_request(shared_model, files, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("once")

    app = make_app(shared_model)
    with TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(shared_model), "score", fail)
            assert client.post("/score", files=upload(files[0])).status_code == 500
        assert client.post("/score", files=upload(files[0])).status_code == 200


def test_a_port_in_use_is_one_line(shared_model, tmp_path):
    shared_model.save(tmp_path / "digits.model")
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        line = error_line(invoke("serve", tmp_path / "digits.model", "--port", port))
    assert str(port) in line
    assert "--port" in line


@pytest.mark.slow
def test_the_command_serves_32_clients_at_once(shared_model, files, tmp_path):
    """In a process of its own: no answer is lost, and each is that of its image."""
    shared_model.save(tmp_path / "digits.model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "attractor_ae", "serve", "digits.model", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    httpx.get(f"{url}/health")
                    break
                except httpx.ConnectError:
                    time.sleep(0.2)

            def ask(file):
                answer = httpx.post(f"{url}/score", files=upload(file), timeout=60)
                return answer.json()[0]

            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                rows = list(pool.map(ask, files))
        finally:
            server.terminate()
    expected = shared_model.score(
        np.stack([np.array(Image.open(io.BytesIO(b))) for _, b in files])[:, None]
    )
    assert [row["path"] for row in rows] == [name for name, _ in files]
    assert [row["p_value"] for row in rows] == pytest.approx(
        [verdict.p_value for verdict in expected], rel=1e-5
    )
