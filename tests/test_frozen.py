"""The command line and the public names of the package. A new flag or name is a deliberate decision: make it here."""

import pytest

import sam2unet
from tests.conftest import load_script

FLAGS = {
    "train.py": """
        --accumulate --amp --augment --axis --batch_size --best_metric --cache --channels_last --class_weights --classes
        --compile --config --context --data --data_path --deterministic --device --dino --dinov2_path --ema --encoder
        --encoder_adapter --epoch --epochs --fast --finetune --fold --folds --foreground --fused --grad_checkpointing
        --group --hiera_path --image_size --init_from --iter_point --loss --lr --lr_scheduler --mask_num --mask_prompt
        --mask_threshold --metrics --model --model_type --multi_scale --multimask --on_bad_image --point_list
        --repeat --resume --rgb --run_name --sam_checkpoint --save --save_minutes --save_path --seed --size --sync_bn
        --tensorboard --train_image_path --train_mask_path --train_points --use_amp --val_data_path --val_every
        --balance --index --keep --split --where
        --val_fraction --val_image_path --val_mask_path --warmup --weight_decay --weights_from --window --work_dir
        --sam3_path --workers
    """,
    "test.py": """
        --amp --archive --axis --batch_size --boxes_prompt --calibrated --checkpoint --compile --components --context
        --contours --data --data_path --device --dicom_seg --dinov2_path --encoder_adapter --exact --fast --foreground
        --hiera_path --image_size --iter_point --lr_scheduler --mask_prompt --mask_threshold --metrics --model_type
        --multimask --no_minmax --on_bad_image --overlay --point_num --prompt_path --recursive --rgb --run_name
        --sam_checkpoint --save_path --save_pred --save_prob --save_slices --seed --shard --size --skip_existing
        --test_gt_path --test_image_path --threshold --tile --tta --uncertainty --use_amp --weights_from --window
        --work_dir --sam3_path --workers
        --index --split --where
    """,
    "eval.py": """
        --axis --backend --classes --config --dataset_name --empty_masks --expect --foreground --from --gt_path
        --image_path --legend --mask_threshold --merge --method --missing --nsd_tolerance --plots --pred_path --protocol
        --report --report_images --resize --save_dir --shard --slices --spacing --verify --workers
    """,
}
NAMES = """
    Prompter UserError create_model from_pretrained list_models load_model load_pair predict predict_many push_to_hub
    structure_loss surface_scores
"""


@pytest.mark.parametrize("script", FLAGS)
def test_the_flags_of_the_scripts_are_these(script):
    actions = load_script(script).parser()._actions
    assert {flag for action in actions for flag in action.option_strings} == {"-h", "--help", *FLAGS[script].split()}


def test_the_public_names_are_these():
    assert set(sam2unet.__all__) == set(NAMES.split())
    assert all(getattr(sam2unet, name) is not None for name in sam2unet.__all__)
