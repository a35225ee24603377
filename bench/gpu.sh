#!/usr/bin/env bash
# Every figure of one GPU in one call of at most 8 minutes:  bash bench/gpu.sh OUT
# The gpu tests, the training step with its kernels beside two baselines, the loss beside libraries, roll-outs, and two
# minutes of training. OUT gets the logs and JSON files. PYTHON=… chooses the interpreter, HARDWARE=… the configuration.
set -u
out=$(mkdir -p "${1:?usage: bash bench/gpu.sh OUT}" && cd "$1" && pwd)
python=${PYTHON:-python}
hardware=${HARDWARE:-bf16_h100}
cd "$(dirname "$0")/.." || exit 1
status=0

part() { # NAME SECONDS COMMAND…: one part, its output shown and kept; a part that fails does not stop the others
  local name=$1 limit=$2
  shift 2
  echo "== $name ($SECONDS s)"
  timeout "$limit" "$@" > "$out/$name.log" 2>&1 || { status=1; echo "$name failed or took longer than $limit s"; }
  tr '\r' '\n' < "$out/$name.log" | tail -n "${LINES_SHOWN:-60}"
}

part tests 90 "$python" -m pytest -q -m gpu tests/model tests/masking tests/sampling tests/training
LINES_SHOWN=150 part step 240 "$python" bench/step.py --device cuda --dtype bf16 --batch-size 512 --rounds 1 \
  --hardware "$hardware" --profile --json "$out/step.json"
part loss 60 "$python" bench/loss.py --device cuda
part roll_outs 90 "$python" bench/generate.py --device cuda --variants --batch-size 256 --rounds 2 \
  --only default "maskgit 4 + 4" "roar 8 + 8" --json "$out/roll_outs.json"
data=$(mktemp -d)
part data 60 "$python" preprocess.py source=demo source.root="$data/clips" source.num_clips=400 workers="$(nproc)" \
  tokenizer.device=cuda encode_batch_size=64 augment.flip=true canvas=zoom canvas.size=128 out="$data/demo"
LINES_SHOWN=12 part training 150 "$python" train.py experiment=demo hardware="$hardware" callbacks=none data.root="$data/demo" \
  run_dir="$data/run" optim.batch_size=512 optim.total_tokens=160 optim.warmup_tokens=4 \
  trainer.eval_every_tokens=40 trainer.checkpoint_every_tokens=160
rm -rf "$data"
echo "== done in $SECONDS s, results in $out"
exit $status
