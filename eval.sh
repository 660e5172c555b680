#!/usr/bin/env bash
# DATASET=CAMO PREDICTIONS=... MASKS=... bash eval.sh [more flags of eval.py]
here=$(dirname "$0")
python=$here/.venv/bin/python && [ -x "$python" ] || python=python
"$python" "$here/eval.py" \
  --dataset_name "${DATASET:?set DATASET to a name for the table}" \
  --pred_path "${PREDICTIONS:?set PREDICTIONS to the folder of maps}" \
  --gt_path "${MASKS:?set MASKS to the folder of masks}" "$@"
