"""Freed memory is reused: a block that is taken again costs no page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, threading, numpy as np
from zhllama_jax.cli import allocator
kept = {call}
def ones(): np.ones({size}, np.int64)
def fill():
    thread = threading.Thread(target=ones)
    thread.start() if {threads} else ones()
    thread.join() if {threads} else None
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50): fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(call: str, *, size: int = 1 << 20, threads: bool = False) -> tuple[str, int]:
    program = FAULTS.format(call=call, size=size, threads=threads)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are glibc's on Linux")
def test_one_heap_saves_them_for_large_blocks_of_other_threads():
    """Blocks of 80 MiB, which the heap of another thread does not hold."""
    kept, faults = run("allocator.keep_freed_memory(one_heap=True)", size=10 << 20, threads=True)
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    _, control = run("allocator.keep_freed_memory()", size=10 << 20, threads=True)
    assert control >= 50 * 40, "two megabytes a huge page"
    assert faults < control / 10
