"""The notebook docs/watch-an-attractor.ipynb: its cells run, and its text is true."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

NOTEBOOK = Path(__file__).parents[1] / "docs/watch-an-attractor.ipynb"


@pytest.mark.slow  # trains two networks
def test_what_the_text_says_is_seen():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    seen = {}
    with torch.random.fork_rng():
        for cell in code:
            exec("".join(cell["source"]), seen)
    assert len(plt.get_fignums()) == sum("show(" in "".join(cell["source"]) for cell in code)
    plt.close("all")
    # Few attractors, none of them a training image; the rate is the spectral radius.
    assert (seen["settled"].period == 1).all()
    assert 1 < len(seen["found"].points) < len(seen["x"]) / 2
    assert not seen["learned"].any()
    assert seen["rate"] == pytest.approx(seen["radius"], rel=0.2)
    # Noise ends on a digit, too, and moves further.
    assert (seen["reached"].period == 1).all()
    assert seen["far"]["noise"] > 1.3 * seen["far"]["digits"]
    # Enough noise takes some image elsewhere, but the least noise takes none.
    kept = seen["levels"][seen["borne"](seen["f"], seen["points"])]
    assert 0 < kept.min() < 1
    # The other network has training images as fixed points, to which most disturbed ones return.
    assert seen["by_heart"].sum() >= 7
    assert seen["after"][0] < seen["before"][0] / 10
    assert (seen["after"] < seen["before"] / 10).float().mean() > 0.5


def test_the_notebook_is_stored_without_results():
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
