#!/usr/bin/env bash
# Tests the wheel with the lowest versions of requirements.txt, in a new environment in the folder that you name:
#   bash scripts/test_lowest.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
[ ! -e "$folder/env" ] || { echo "error: $folder/env exists; give another folder" >&2; exit 2; }
python3 -m venv "$folder/env"
python=$folder/env/bin/python
$python -m pip install --quiet build uv
$python -m build --quiet --wheel --outdir "$folder"
$python -m uv pip install --quiet --python "$python" --resolution lowest-direct --requirements requirements.txt
# The wheel and what the tests need leave these versions as they are.
$python -m pip freeze --exclude build --exclude uv > "$folder/lowest.txt"
$python -m uv pip install --quiet --python "$python" --constraints "$folder/lowest.txt" \
  "$(echo "$folder"/*.whl)[fast,medical]" "pytest>=8" "hypothesis>=6.100" "scikit-learn>=1.4"
"$folder/env/bin/sam2unet" doctor --device cpu
OMP_NUM_THREADS=1 $python -m pytest -q -p no:cacheprovider tests/test_losses.py tests/models tests/scoring
