"""Print a Markdown table of what `attractor-ae attractors` has found for several networks.

    attractor-ae attractors demo --out demo-attractors
    python benchmarks/attractors_table.py "the demo=demo-attractors" "ten times the steps=..."

A row per network and mask, of the numbers in attractors.json. Shares are percent. "Test images" are
those of the first set after the training images.
"""

import argparse
import json
from pathlib import Path

HEADS = (
    *("network", "mask", "attractors", "spurious", "median steps", "spectral radius"),
    *("still moving, %", "own class, training, %", "own class, test, %", "memorised, %"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", metavar="NAME=FOLDER")
    print("| " + " | ".join(HEADS) + " |")
    print("|---" * len(HEADS) + "|")
    for text in parser.parse_args().places:
        name, _, folder = text.rpartition("=")
        found = json.loads((Path(folder) / "attractors.json").read_text(encoding="utf-8"))
        for mask, entry in found["masks"].items():
            train, test = list(entry["sets"].values())[:2]
            radii = [some["spectral_radius"] for some in entry["attractors"]]
            cells = [
                *(name, mask, str(entry["number"]), str(entry["spurious"])),
                f"{train['median_steps']:.0f}" if train["median_steps"] is not None else "",
                f"{min(radii):.2f} to {max(radii):.2f}" if radii else "",
                f"{100 * train['moving']:.0f}",
                *(f"{100 * part['ends_on_class']['own']:.0f}" for part in (train, test)),
                f"{100 * entry['memorised']:.0f}",
            ]
            print("| " + " | ".join(cells) + " |")
            name = ""


if __name__ == "__main__":
    main()
