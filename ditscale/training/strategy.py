"""The DeepSpeed JSON of a run: a strategy file with what the run config decides filled in. No torch needed."""

import json
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.errors import UserError


def deepspeed_config(config: RunConfig, world_size: int) -> dict:
    """The strategy file with what the run config decides filled in.

    Raises:
        UserError: the file is missing, not JSON, or contradicts the run config (the key and both values are named).
    """
    path = Path(config.resources.deepspeed)
    try:
        strategy = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"resources.deepspeed: {path} does not exist (looked from {Path.cwd()})") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"resources.deepspeed: {path} is not readable JSON: {error}") from None
    stage = strategy.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2):
        raise UserError(f"resources.deepspeed: {path} asks for ZeRO stage {stage}; stages 1 and 2 are supported: for these, "
                        "training, EMA and resuming are proven equal to a plain loop")
    train = config.train
    ours = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": train.global_batch // (world_size * config.micro_batch),
        "gradient_clipping": train.grad_clip,
        "bf16": {"enabled": train.precision == "bf16"},
    }
    for key, value in ours.items():
        if strategy.get(key, "auto") not in ("auto", value):
            raise UserError(f"{path} says {key} = {strategy[key]!r} but the run config makes it {value!r}; "
                            f"drop the key or write \"auto\"")
    return {"steps_per_print": 10**9, **strategy, **ours}
