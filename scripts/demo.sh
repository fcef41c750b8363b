#!/usr/bin/env bash
# The whole pipeline on the embedded bilingual world, without downloads, in .venv (made if missing). About five minutes on two CPU cores.
# Arguments go to `zhllama demo`: `bash scripts/demo.sh --seed 1 --output runs/demo1`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "run" "."

exec .venv/bin/zhllama demo "$@"
