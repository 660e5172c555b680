#!/usr/bin/env bash
# Makes .venv if needed, then trains, predicts and scores: on sample data, or on your own folders with
#   bash scripts/quickstart.sh --images DIR --masks DIR [--hiera_path FILE|NAME]
set -euo pipefail
here=$PWD
source "$(dirname "$0")/env.sh"
exec $python scripts/quickstart.py --from "$here" --save_path "$PWD/runs/quickstart" "$@"
