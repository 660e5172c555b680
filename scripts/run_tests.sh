#!/usr/bin/env bash
# Makes .venv if needed, then runs the linter, the type checker and the tests. Arguments go to pytest:
#   bash scripts/run_tests.sh -k loss
set -euo pipefail
source "$(dirname "$0")/env.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy  # its cache makes the next runs take seconds
unset PYTHONDONTWRITEBYTECODE  # compiled files save time in each of the many processes
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # three test processes share the cores, because many tests wait
exec $python -m pytest -ra -n 3 --dist loadfile --no-loadscope-reorder "$@"
