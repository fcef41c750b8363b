"""`python -m zhllama_jax` is the same program."""

import subprocess
import sys

import zhllama_jax


def test_the_module_runs_as_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "zhllama_jax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == zhllama_jax.__version__


def test_an_error_becomes_the_exit_status() -> None:
    done = subprocess.run([sys.executable, "-m", "zhllama_jax", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("zhllama: error: unknown verb 'nothing'")
