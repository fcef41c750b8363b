#!/usr/bin/env bash
# The tests that take minutes (the demo at its true size with three seeds, the notebook at its full length, more than a million damaged
# files of all kinds, the ids of 100,000 texts of each kind in transformers) or ask the package index, in .venv (made if missing), and
# those against llama.cpp, which is compiled first, once (see llama_cpp_check.sh). About three quarters of an hour on two quiet CPU
# cores. Arguments go to pytest: `bash scripts/nightly.sh -k demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "test" ".[test]"
llama_cpp || echo "scripts/nightly.sh: without llama.cpp; its tests are skipped" >&2

exec .venv/bin/pytest -q -m slow "$@"
