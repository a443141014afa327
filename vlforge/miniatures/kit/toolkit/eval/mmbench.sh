#!/bin/bash
# MMBench: answers of a trained model, and the table that its server takes.
CKPT=$1
SPLIT=$2
CUDA_IDX=$3

EVAL_DIR=$(cd "$(dirname "$0")" && pwd)
DATA=$EVAL_DIR/../training/data/eval_stage_1/mmbench
OUT=$EVAL_DIR/../../output/eval_results/$CKPT/mmbench

mkdir -p $OUT/answers/$SPLIT $OUT/answers_upload/$SPLIT
cd $EVAL_DIR/../training
CUDA_VISIBLE_DEVICES=${CUDA_IDX%%,*} python -m mgm.eval.model_vqa_mmbench \
    --model-path $EVAL_DIR/../../output/training_dirs/$CKPT \
    --question-file $DATA/$SPLIT.tsv \
    --answers-file $OUT/answers/$SPLIT/$CKPT.jsonl \
    --single-pred-prompt \
    --temperature 0 \
    --conv-mode gemma

python scripts/convert_mmbench_for_submission.py \
    --annotation-file $DATA/$SPLIT.tsv \
    --result-dir $OUT/answers/$SPLIT \
    --upload-dir $OUT/answers_upload/$SPLIT \
    --experiment $CKPT
