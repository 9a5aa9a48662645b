"""Part of `make soak`; a short round of each kind, without the killed processes, is a slow test."""

import fuzz
import pytest


@pytest.mark.soak
def test_five_minutes_of_fuzzing(capsys):
    assert fuzz.main(["--seconds", "300"]) == 0, capsys.readouterr().out


@pytest.mark.slow  # trains the run that is damaged
def test_a_short_fuzzing_of_files(capsys):
    kinds = [kind for kind in dict.fromkeys(fuzz.KINDS) if not kind.startswith("killed")]
    assert fuzz.main(["--seconds", "10", "--kinds", ",".join(kinds)]) == 0, capsys.readouterr().out


@pytest.mark.slow  # as above
def test_a_failure_is_counted_and_can_be_repeated(capsys, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda data, rng: data + b"x")
    monkeypatch.setattr(fuzz, "read_tensors", lambda path: ({}, {}))
    assert fuzz.main(["--round", "3", "--kinds", "detector_files"]) == 1
    assert "a damaged detector.safetensors was read" in capsys.readouterr().out
