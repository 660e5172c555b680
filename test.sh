#!/usr/bin/env bash
# CHECKPOINT=... TEST_IMAGES=... TEST_MASKS=... SAVE_PATH=... bash test.sh [more flags]; TEST_MASKS may be left out
here=$(dirname "$0")
python=$here/.venv/bin/python && [ -x "$python" ] || python=python
"$python" "$here/test.py" \
  --checkpoint "${CHECKPOINT:?set CHECKPOINT to a SAM2-UNet-<epoch>.pth}" \
  --test_image_path "${TEST_IMAGES:?set TEST_IMAGES to a folder of images}" \
  ${TEST_MASKS:+--test_gt_path "$TEST_MASKS"} \
  --save_path "${SAVE_PATH:?set SAVE_PATH to a folder for the maps}" "$@"
