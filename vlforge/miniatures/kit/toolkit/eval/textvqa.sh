#!/bin/bash
# TextVQA: answers of a trained model, one process per GPU, then their score.
CKPT=$1
CUDA_IDX=$2

EVAL_DIR=$(cd "$(dirname "$0")" && pwd)
DATA=$EVAL_DIR/../training/data/eval_stage_1/textvqa
OUT=$EVAL_DIR/../../output/eval_results/$CKPT/textvqa
IFS=',' read -ra GPULIST <<< "${CUDA_IDX:-0}"
CHUNKS=${#GPULIST[@]}

mkdir -p $OUT/answers
cd $EVAL_DIR/../training
for IDX in $(seq 0 $((CHUNKS-1))); do
    CUDA_VISIBLE_DEVICES=${GPULIST[$IDX]} python -m mgm.eval.model_vqa_loader \
        --model-path $EVAL_DIR/../../output/training_dirs/$CKPT \
        --question-file $DATA/llava_textvqa_val_v051_ocr.jsonl \
        --image-folder $DATA/train_images \
        --answers-file $OUT/answers/${CHUNKS}_${IDX}.jsonl \
        --num-chunks $CHUNKS \
        --chunk-idx $IDX \
        --temperature 0 \
        --conv-mode gemma &
done
wait
cat $(for IDX in $(seq 0 $((CHUNKS-1))); do echo $OUT/answers/${CHUNKS}_${IDX}.jsonl; done) > $OUT/answers/merge.jsonl

python -m mgm.eval.eval_textvqa \
    --annotation-file $DATA/TextVQA_0.5.1_val.json \
    --result-file $OUT/answers/merge.jsonl | tee $OUT/result.txt
