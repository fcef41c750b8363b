#!/usr/bin/env bash
# The tests once more with the oldest versions that are supported, those of tests/floor.txt (what Colab ships), in .venv-floor (made if
# missing). Arguments go to pytest: `bash scripts/test_floor.sh tests/model -k rope`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "test" ".[test]" ".venv-floor" "tests/floor.txt"

.venv-floor/bin/pytest -q -n 2 --dist worksteal "$@"
