"""Memory that a process keeps: the pages of an array that went serve the next one, also in other threads."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
import numpy as np
from zhllama_jax.convert import memory

def touch():
    np.ones(64 << 20, np.uint8)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    memory.keep()
touch()
before = faults()
for _ in range(4):
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
print(faults() - before)
"""


def faults(how: str) -> int:
    """Page faults of four arrays after the first; each alone has 32 huge pages or 16,384 small ones."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_pages_are_used_again() -> None:
    assert faults("keep") < faults("leave") / 2
