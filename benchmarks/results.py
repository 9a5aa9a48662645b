"""Generate docs/results.md from the output of `attractor-ae reproduce`.

    python benchmarks/results.py reproductions/{builtin,mnist,fashion}-quick > docs/results.md

Each folder's README contains the command that made it and the tables, of which two are shown.
"""

import argparse
from pathlib import Path

INTRODUCTION = """# Tables

`MC-AE, fused` has the best AUROC, AUPR and FPR95 on every D_out below. It does not have the best
accuracy, and MC dropout and the deep ensemble are better at detecting wrong predictions. `MC-AE`
reports the entropy of the paper, `MC-AE, fused` the OOD score of [recipe.md](recipe.md).

These are not the published experiments. Each table was made by the command above it on two CPU
cores, with `--quick`: minutes of training per network instead of days, three seeds, and only D_outs
whose files were available. `benchmarks/results.py` generates this page."""


# tests/test_docs.py runs all other commands of the pages.
NOT_RUN = (
    "<!-- not run: trains for minutes; tests/experiment/test_reproduce.py has a shorter suite -->"
)


def between(text: str, start: str, end: str) -> str:
    """Return the part of a text from ``start`` until before ``end``."""
    return text[text.index(start) : text.index(end)].strip()


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    print(INTRODUCTION)
    for folder in parser.parse_args().folders:
        text = (folder / "README.md").read_text(encoding="utf-8")
        command = next(line for line in text.splitlines() if "attractor-ae reproduce" in line)
        print(f"\n## {command.split()[2]}\n\n{NOT_RUN}\n\n{command}\n")
        print(between(text, "**Detection of", "## Of the known"))
        print()
        print(between(text, "**Accuracy, and", "area over the thresholds"))


if __name__ == "__main__":
    main()
