"""The code of docs/attractors.md, word for word."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/attractors.md"


def test_the_code_runs_as_it_stands(tmp_path, monkeypatch, capsys, detector):
    (tmp_path / "demo").mkdir()
    detector.save(tmp_path / "demo/detector.safetensors")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})  # one after the other, as a reader does
    # Every print shows something; an untrained network has one attractor, which ends all images.
    assert len(capsys.readouterr().out.split("tensor")) > 7
