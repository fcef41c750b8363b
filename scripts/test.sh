#!/usr/bin/env bash
# Lint, format, types, architecture and tests, in .venv (made if missing). Arguments go to pytest: `bash scripts/test.sh tests/model -k rope`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "test" ".[test]"

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -q -n 2 --dist worksteal "$@"
