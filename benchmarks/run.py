"""Measure how fast the package is: against the plain way, and against the floor.

    python benchmarks/run.py --out FOLDER            everything; tens of minutes
    python benchmarks/run.py --quick                 tiny sizes: does it run?
    python benchmarks/run.py --only training scoring

Every size is an option (--help). What is compared is told in docs/speed.md. Printed are tables in
Markdown; ``FOLDER/benchmark.json`` has every time that was taken and the environment, and
``FOLDER/benchmark.png`` and ``.pdf`` are the figure.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import report
import torch
from measurements import CPU, MEASUREMENTS, Benchmark
from sizes import parser, sizes_of

from attractor_ae._devices import mixed_precision
from attractor_ae._files import write_json
from attractor_ae.experiment.run import environment


def main() -> None:
    """Measure what is asked for, and write it down after each measurement."""
    options = parser(__doc__)
    options.add_argument(
        "--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, metavar="NAME"
    )
    options.add_argument("--out", type=Path, default=Path("build/benchmarks"), metavar="FOLDER")
    arguments = options.parse_args()
    sizes = sizes_of(arguments)
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(sizes.seed)
    results = {
        "environment": environment("cpu", str(mixed_precision(CPU, "auto"))),
        "sizes": dataclasses.asdict(sizes),
        "measurements": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(sizes, Path(folder))
        for name in MEASUREMENTS:
            if name in arguments.only:
                print(f"measuring {name} ...", file=sys.stderr, flush=True)
                results["measurements"][name] = getattr(benchmark, name)()
                write_json(arguments.out / "benchmark.json", results)
    print(report.markdown(results))
    report.draw(results, arguments.out / "benchmark")


if __name__ == "__main__":
    main()
