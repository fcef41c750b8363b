"""Freed memory is reused: a block that is taken again costs no page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy as np
from zhllama_jax.cli import allocator
kept = {call}
def fill(): np.ones(1 << 20, np.int64)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50): fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(call: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are glibc's on Linux")
def test_keep_freed_memory_saves_the_page_faults_of_blocks_taken_again():
    kept, faults = run("allocator.keep_freed_memory()")
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    _, control = run("None")
    # 50 blocks of 2,048 pages; transparent huge pages may make them fewer, but never fewer than one a block.
    assert control >= 50
    assert faults < control / 10
