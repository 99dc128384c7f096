#!/usr/bin/env bash
# All that needs a GPU, in one call on a bare machine: correctness, resume, throughput with MFU and memory, a short run, and what a
# step costs beyond a plain loop. With timm and diffusers also: a step against the released DiT's loop, and sampling against DiTPipeline.
#
#     bash benchmarks/gpu.sh [--wheels FOLDER] [--cifar10 ARCHIVE] [--out FOLDER] [--device cuda|cpu] [--tiny] [--minutes M]
#
# Torch must be there. FOLDER of --wheels (or $WHEELS) holds what else is missing: deepspeed as a pure wheel (DS_BUILD_OPS=0
# pip wheel --no-deps deepspeed), einops hjson msgpack psutil py-cpuinfo tqdm, pydantic pydantic-core annotated-types
# typing-inspection, safetensors, tensorboard absl-py protobuf, pyyaml. FFCV is not needed; timm (torchvision, huggingface-hub) and
# diffusers are for the last two parts, which are left out without them. --cifar10: what
# `ditscale data build` takes (pillow is needed); else the short run has made-up pictures. Results go to --out, $OUT or
# benchmarks/results. A part that fails does not stop the others; the exit code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] && found=.venv/bin/python || found=python3               # of `make setup`, or the machine's own
wheels=${WHEELS:-} out=${OUT:-benchmarks/results} device=cuda python=${PYTHON:-$found} cifar="" more=()
step=(--model DiT-S/2 --batch 256 --rounds 20)
released=(--cases DiT-S/2:256,DiT-B/4:256,DiT-XL/2:32) pipeline=(--model DiT-XL/2 --images 16 --compile)
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --cifar10) cifar=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --tiny) more+=(--tiny) step=(--tiny) released=(--tiny) pipeline=(--tiny); shift ;;
    --minutes) more+=(--minutes "$2"); shift 2 ;;
    *) echo "error: $1 is not an option; see the head of this file" >&2; exit 2 ;;
  esac
done

[ -z "$wheels" ] || "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ "$device" = cpu ]; then
  export CUDA_VISIBLE_DEVICES="" DS_ACCELERATOR=cpu
elif ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  echo "error: torch finds no GPU here; --device cpu --tiny shows whether all runs" >&2; exit 2
fi

mkdir -p "$out"
failed=0

measure() {                                                                     # name, command: its words go to a log, the last ones here too
  echo "== $1"
  local code=0
  "${@:2}" >"$out/gpu_$1.log" 2>&1 || { code=1 failed=1; echo "failed: $1"; }
  tail -n 12 "$out/gpu_$1.log"
  return $code
}

for part in parity resume throughput; do
  measure "$part" "$python" benchmarks/gpu.py "$part" --out "$out" ${more[@]+"${more[@]}"}
done
measure pictures "$python" benchmarks/gpu.py pictures --out "$out" ${more[@]+"${more[@]}"} ${cifar:+--cifar10 "$cifar"}
measure step "$python" benchmarks/train_step.py "${step[@]}" --precision bf16 && tail -n 1 "$out/gpu_step.log" >"$out/gpu_step.json"
for peer in "timm released_loop released" "diffusers sample_pipeline pipeline"; do
  read -r package name words <<<"$peer"
  declare -n arguments=$words
  if "$python" -c "import $package" 2>/dev/null; then
    measure "$name" "$python" "benchmarks/$name.py" "${arguments[@]}" && tail -n 1 "$out/gpu_$name.log" >"$out/gpu_$name.json"
  else
    echo "== $name: left out, $package is not installed"
  fi
done
exit $failed
