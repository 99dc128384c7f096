"""The weight average that scores are of: a run must keep it, or keep what it is rebuilt from."""

from contextlib import suppress

from ditscale.errors import UserError, did_you_mean

MAIN, MASTERS, LENGTH = "ema", "masters", "length-"


def check_averages(runs: list, source: str) -> None:
    """Raises UserError for a run with an ``evaluation.average`` that it will not have."""
    checked = set()
    for planned in runs:
        config = planned.config
        key = (config.evaluation and config.evaluation.average, config.train.ema_decays, config.train.ema_lengths)
        if config.evaluation and config.evaluation.average != MAIN and key not in checked:
            checked.add(key)
            _check(config.evaluation.average, config.train, source)


def _check(average: str, train, source: str) -> None:
    # Here, as it loads numpy, which `plan` of most studies does without.
    from ditscale.training.ema.profiles import LONGEST, decays

    kept = [*decays(train), MASTERS]
    if average in kept:
        return
    lengths = f", and {LENGTH}X of any X above 0 and below {LONGEST:.3f}" if train.ema_lengths else ""
    if average.startswith(LENGTH) and train.ema_lengths:
        with suppress(ValueError):
            if 0 < float(average.removeprefix(LENGTH)) < LONGEST:
                return
    more = "" if lengths else f"; for {LENGTH}0.1 train with train.ema_lengths: [0.05, 0.1]"
    raise UserError(f"{source}: evaluation.average is '{average}', which no checkpoint of the run will have{did_you_mean(average, kept) or '.'} It has "
                    f"{', '.join(kept)}{lengths}{more}")
