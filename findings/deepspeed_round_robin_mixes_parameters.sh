#!/usr/bin/env bash
# DeepSpeed 0.19.8, ZeRO 1 and 2: with round_robin_gradients the safe_get_* and safe_set_* functions reach another parameter.
#
# The option lays the parameters out in another order over the ranks. The table that leads from a parameter to its fp32 copy and
# gradient is still made in the model's order. So for 4 equal layers on 2 ranks the functions answer for layer 1 with layer 2, and
# for 2 with 1. Nothing warns. Training itself does not use the table and is right: the parameters equal those without the option.
#
# Two processes on the CPU. Exit status: 0 while DeepSpeed behaves so, 1 once it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 setuptools==80.9.0
"$work/venv/bin/pip" install --quiet deepspeed==0.19.8
cd "$work"
cat > check.py <<'PYTHON'
import sys

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad, safe_set_full_fp32_param

LAYERS = 4


def whose(value, candidates):
    """The layers whose tensor ``value`` is."""
    return [i for i, other in enumerate(candidates) if torch.allclose(value, other, rtol=1e-4, atol=1e-7)]


def observe(stage, round_robin):
    """What the functions return and change, by layer, and the parameters after the first step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8, bias=False) for _ in range(LAYERS)])
    x = torch.randn(2, 8)                                         # the same on both ranks: its gradient is the mean's
    true = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config={
        "train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "Adam", "params": {"lr": 1e-6, "torch_adam": True}},
        "zero_optimization": {"stage": stage, "round_robin_gradients": round_robin}})
    weights = list(model.parameters())
    engine.backward(engine(x).square().mean())
    grads = [whose(safe_get_full_grad(w), true) for w in weights]
    engine.step()
    after = [w.detach().clone() for w in weights]
    masters = [whose(safe_get_full_fp32_param(w), after) for w in weights]
    safe_set_full_fp32_param(weights[1], torch.zeros(8, 8))       # the step copies the fp32 copies into the model
    engine.backward(engine(x).square().mean())
    engine.step()
    zeroed = [i for i, w in enumerate(weights) if w.abs().max() < 1e-3]
    return {"gradients": grads, "fp32 copies": masters, "set to 0 through layer 1": zeroed}, after


deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False    # the optional C++ op, which would need a compiler
deepspeed.init_distributed("gloo")
right = {"gradients": [[0], [1], [2], [3]], "fp32 copies": [[0], [1], [2], [3]], "set to 0 through layer 1": [1]}
wrong = {"gradients": [[0], [2], [1], [3]], "fp32 copies": [[0], [2], [1], [3]], "set to 0 through layer 1": [2]}
holds, lines = True, [f"deepspeed {deepspeed.__version__}, torch {torch.__version__}, 2 ranks; layers reached through 0 to 3",
                      f"expected: {right}"]
for stage in (1, 2):
    (plain, trained), (mixed, trained_mixed) = observe(stage, False), observe(stage, True)
    same = all(map(torch.equal, trained, trained_mixed))
    holds &= plain == right and mixed == wrong and same
    lines += [f"stage {stage}, without the option: {plain}",
              f"stage {stage}, round_robin_gradients: {mixed}; trained the same: {same}"]
lines.append("as found: layers 1 and 2 are exchanged" if holds else "CHANGED: not as found")
if deepspeed.comm.get_rank() == 0:
    open("answer.txt", "w").write("\n".join(lines) + "\n")
deepspeed.comm.barrier()
torch.distributed.destroy_process_group()
sys.exit(not holds)
PYTHON
port=$("$work/venv/bin/python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
status=0
export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TRITON_CACHE_DIR="$work/triton" PATH="$work/venv/bin:$PATH"
timeout 300 python -m torch.distributed.run --nproc_per_node 2 --master_addr 127.0.0.1 --master_port "$port" check.py \
    > log.txt 2>&1 || status=$?
cat answer.txt || tail -n 40 log.txt                              # no answer: something else went wrong, and the log says what
exit "$status"
