#!/usr/bin/env bash
# TRAIN_IMAGES=... TRAIN_MASKS=... SAVE_PATH=... HIERA_PATH=sam2_hiera_large.pt bash train.sh [more flags of train.py]
# DATA=... instead of TRAIN_IMAGES and TRAIN_MASKS: a folder that contains both with usual names
# SAM2-UNeXT also needs MODEL=sam2unext DINOV2_PATH=model.safetensors
# SAM3-UNet needs MODEL=sam3unet SAM3_PATH=sam3.pt instead of HIERA_PATH
# SAM-Med2D needs only MODEL=sam_med2d DATA_PATH=... SAVE_PATH=... SAM_CHECKPOINT=sam_vit_b_01ec64.pth
here=$(dirname "$0")
python=$here/.venv/bin/python && [ -x "$python" ] || python=python
if [ -n "${DATA_PATH:-}" ]; then data=(--data_path "$DATA_PATH")
elif [ -n "${DATA:-}" ] && [ -z "${TRAIN_IMAGES:-}${TRAIN_MASKS:-}" ]; then data=(--data "$DATA")
else data=(--train_image_path "${TRAIN_IMAGES:?set TRAIN_IMAGES to a folder of images (or DATA, or DATA_PATH: see train.sh)}"
           --train_mask_path "${TRAIN_MASKS:?set TRAIN_MASKS to a folder of masks}"); fi
"$python" "$here/train.py" "${data[@]}" --save_path "${SAVE_PATH:?set SAVE_PATH to a folder for checkpoints}" \
  ${MODEL:+--model "$MODEL"} ${HIERA_PATH:+--hiera_path "$HIERA_PATH"} ${DINOV2_PATH:+--dinov2_path "$DINOV2_PATH"} \
  ${SAM3_PATH:+--sam3_path "$SAM3_PATH"} ${SAM_CHECKPOINT:+--sam_checkpoint "$SAM_CHECKPOINT"} \
  ${EPOCH:+--epoch "$EPOCH"} ${LR:+--lr "$LR"} ${BATCH_SIZE:+--batch_size "$BATCH_SIZE"} "$@"
