import subprocess
import sys

import pytest

from attractor_ae import _memory as memory

# Objects of 40 MB are above the largest size that glibc keeps by itself: each is mapped anew.
COUNT_PAGE_FAULTS = """
import contextlib
import resource
from attractor_ae._memory import keep_freed_memory

def faults():
    b"x" * 40_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * 40_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
with keep_freed_memory():
    print(faults())
print(faults())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="asks glibc's malloc")
def test_freed_memory_is_used_again():
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept < 100
    assert min(before, after) > 1000


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.keep_freed_memory():
        pass
    monkeypatch.undo()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory._glibc() is None
