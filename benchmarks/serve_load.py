"""Load test of the server: clients at once, malformed requests, memory.

    python benchmarks/serve_load.py parts.model new/

Starts the server in a process of its own, on a free port. 32 clients send one image per request;
every row must be that of `score`. Then malformed requests, and the growth of memory.
"""

import argparse
import concurrent.futures
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from attractor_ae import load_model

TEXTS = ("verdict", "class", "reason")


def main() -> None:
    """Run the load test and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", help="folder of images")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--malformed", type=int, default=1_000)
    parser.add_argument("--more", type=int, default=10_000, help="requests for the memory")
    options = parser.parse_args()
    expected = {v.path: v.row() for v in load_model(options.model).score_files(options.images)}
    files = {path: Path(path).read_bytes() for path in expected}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "attractor_ae", "serve", options.model, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            measure(options, f"http://127.0.0.1:{port}", files, expected, process.pid)
        finally:
            process.terminate()


def measure(
    options: argparse.Namespace,
    url: str,
    files: dict[str, bytes],
    expected: dict[str, dict[str, object]],
    pid: int,
) -> None:
    """Send the requests to a server that is starting, and print the figures."""
    client = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=options.clients))
    for _ in range(300):
        try:
            client.get(f"{url}/health")
            break
        except httpx.TransportError:
            time.sleep(0.2)

    def ask(path: str) -> tuple[float, bool]:
        began = time.perf_counter()
        answer = client.post(f"{url}/score", files=[("images", (path, files[path]))])
        seconds = time.perf_counter() - began
        return seconds, answer.status_code == 200 and same(answer.json()[0], expected[path])

    def asked(count: int) -> tuple[np.ndarray, int, float]:
        paths = random.Random(0).choices(sorted(files), k=count)
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            times, right = zip(*pool.map(ask, paths), strict=True)
        return np.array(times), count - sum(right), time.perf_counter() - began

    alone = np.array([ask(path)[0] for path in sorted(files)[:100]])
    print(f"one client: median {ms(alone, 50)}, 99th percentile {ms(alone, 99)}")
    times, wrong, seconds = asked(options.requests)
    print(
        f"{options.clients} clients: {options.requests / seconds:.0f} images/s, median "
        f"{ms(times, 50)}, 99th percentile {ms(times, 99)}, lost or wrong: {wrong}"
    )
    rng, codes = random.Random(0), {}
    for _ in range(options.malformed):
        code = client.post(f"{url}/score", **malformed(rng, files)).status_code
        codes[code] = codes.get(code, 0) + 1
    print(f"{options.malformed} malformed requests: answers by code {dict(sorted(codes.items()))}")
    process, sizes = psutil.Process(pid), []
    for _ in range(5):
        _, wrong, _ = asked(options.more // 5)
        sizes.append(process.memory_info().rss / 2**20)
        print(f"{options.more // 5} more: {sizes[-1]:.0f} MB, lost or wrong: {wrong}")


def malformed(rng: random.Random, files: dict[str, bytes]) -> dict[str, object]:
    """Return the arguments of a request without an intact image."""
    data = bytearray(rng.choice(list(files.values())))
    for _ in range(5):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return rng.choice(
        [
            {"files": [("images", ("cut.jpg", bytes(data[: rng.randrange(len(data))])))]},
            {"files": [("images", ("damaged.jpg", bytes(data)))]},
            {"files": [("other", ("name.jpg", bytes(data)))]},
            {"files": [("images", ("empty.jpg", b""))]},
            {"content": rng.randbytes(rng.randrange(2_000))},
            {"content": rng.randbytes(100), "headers": {"content-type": "multipart/form-data"}},
            {"data": {"images": "text"}},
            {"json": {"images": [1, 2]}},
        ]
    )


def same(row: dict[str, object], expected: dict[str, object]) -> bool:
    """Return whether a row is the expected one, numbers to rounding."""
    return all(
        np.isclose(value, expected[name], rtol=1e-3, atol=1e-4)
        if isinstance(value, float)
        else value == expected[name]
        for name, value in row.items()
        if isinstance(value, float) or name in TEXTS
    )


def ms(times: np.ndarray, percentile: float) -> str:
    """Return a percentile in milliseconds."""
    return f"{1000 * np.percentile(times, percentile):.0f} ms"


if __name__ == "__main__":
    main()
