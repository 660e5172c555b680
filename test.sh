#!/usr/bin/env bash
# CHECKPOINT=... TEST_IMAGES=... TEST_MASKS=... SAVE_PATH=... bash test.sh [more flags]; TEST_MASKS is optional
# DATA=... instead of TEST_IMAGES and TEST_MASKS: a folder that contains both with usual names
# SAM-Med2D: CHECKPOINT=... DATA_PATH=... SAVE_PATH=..., and SAM_CHECKPOINT=... if the file has only trained weights
here=$(dirname "$0")
python=$here/.venv/bin/python && [ -x "$python" ] || python=python
if [ -n "${DATA_PATH:-}" ]; then data=(--data_path "$DATA_PATH")
elif [ -n "${DATA:-}" ] && [ -z "${TEST_IMAGES:-}${TEST_MASKS:-}" ]; then data=(--data "$DATA")
else data=(--test_image_path "${TEST_IMAGES:?set TEST_IMAGES to a folder of images}"); fi
"$python" "$here/test.py" --checkpoint "${CHECKPOINT:?set CHECKPOINT to a SAM2-UNet-<epoch>.pth}" "${data[@]}" \
  ${TEST_MASKS:+--test_gt_path "$TEST_MASKS"} ${SAM_CHECKPOINT:+--sam_checkpoint "$SAM_CHECKPOINT"} \
  --save_path "${SAVE_PATH:?set SAVE_PATH to a folder for the maps}" "$@"
