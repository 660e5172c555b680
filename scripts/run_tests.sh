#!/usr/bin/env bash
# Makes .venv if needed, then runs the linter and the tests. Arguments go to pytest: bash scripts/run_tests.sh -k loss
set -euo pipefail
source "$(dirname "$0")/env.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
exec $python -m pytest -ra "$@"
