#!/usr/bin/env bash
# The tests that take minutes (the demo at its true size with three seeds, the notebook at its full length, a hundred thousand damaged
# PyTorch files) or ask the package index, in .venv (made if missing), and those against llama.cpp, which is compiled first, once (see
# llama_cpp_check.sh). Less than half an hour on two quiet CPU cores. Arguments go to pytest: `bash scripts/nightly.sh -k demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "test" ".[test]"
llama_cpp || echo "scripts/nightly.sh: without llama.cpp; its tests are skipped" >&2

exec .venv/bin/pytest -q -m slow "$@"
