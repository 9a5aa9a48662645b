import numpy as np
from PIL import Image

from attractor_ae.reporting.attractors import write_animation


def test_names_in_an_animation_are_spelled_out(tmp_path):
    def drawn(name):
        frames = [np.zeros((2, 8, 8), np.uint8)] * 2
        write_animation(tmp_path / "a.gif", [name, "b"], frames, [0, 1])
        with Image.open(tmp_path / "a.gif") as animation:
            return np.array(animation.convert("L"))

    spelled = drawn("\N{CAT FACE} $5")
    np.testing.assert_array_equal(spelled, drawn("[cat face] $5"))
    assert drawn(r"[cat face] \$5").shape != spelled.shape
