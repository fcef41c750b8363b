#!/usr/bin/env bash
# The whole pipeline on the embedded bilingual world, without downloads, in .venv (made if missing). About five minutes on two CPU cores.
# Arguments go to `zhllama demo`: `bash scripts/demo.sh --seed 1`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "run" "."

output=runs/demo
case " $* " in *" --output "* | *" --output="*) exec .venv/bin/zhllama demo "$@" ;; esac
exec .venv/bin/zhllama demo --output "$output" "$@"
