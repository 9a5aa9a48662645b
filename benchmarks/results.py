"""Make docs/results.md of what `attractor-ae reproduce` has left.

    python benchmarks/results.py reproductions/{builtin,mnist,fashion}-quick > docs/results.md

Each folder's README has the command that made it and the tables; the two smaller of them are shown.
"""

import argparse
from pathlib import Path

INTRODUCTION = """# Tables

Each was made by the command above it, on two CPU cores, by the quick form of every method:
minutes of training instead of the published days. They show that the way from one command to a
table works, and what to expect of a laptop; they are not the published experiment. Three seeds;
D_outs whose files were not there are left out. `MC-AE` reports the paper's entropy, `MC-AE, fused`
the score of [recipe.md](recipe.md). This page is what `benchmarks/results.py` makes of them."""


def between(text: str, start: str, end: str) -> str:
    """Return a part of a text, from ``start`` on and without ``end``."""
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
        print(f"\n## {command.split()[2]}\n\n{command}\n")
        print(between(text, "**Detection of", "## Of the known"))
        print()
        print(between(text, "**Accuracy, and", "area over the thresholds"))


if __name__ == "__main__":
    main()
