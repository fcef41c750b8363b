#!/usr/bin/env bash
# Our GGUF files in llama.cpp: the same ids for thousands of texts, the same numbers, close logits, the same next token. Builds
# llama-cpp-python from source in .venv-llama-cpp (once; some minutes and a C++ compiler), then runs the tests in .venv. Arguments go to
# pytest: `bash scripts/llama_cpp_check.sh -rP` prints how far the logits are apart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "test" ".[test]"
llama_cpp

exec .venv/bin/pytest -q -m "slow or not slow" tests/convert/test_gguf_llama_cpp.py "$@"
