"""What is checked before any run starts: for each run, not only for the first."""

import pytest

from ditscale.config import resolve
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.studies.spec.inputs import check_inputs
from ditscale.studies.spec.spec import PlannedRun


@pytest.fixture
def planned(digits_values, repository, monkeypatch):
    monkeypatch.chdir(repository)

    def make(**changes):
        import copy
        values = copy.deepcopy(digits_values)
        for key, value in changes.items():
            set_key(values, key.replace("__", "."), value)
        return PlannedRun(resolve(values, "test"), {})
    return make


@pytest.mark.parametrize("precisions", [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_strategy_must_fit_every_run(planned, precisions):
    runs = [planned(resources__deepspeed="ds_configs/zero0.json", train__precision=precision) for precision in precisions]
    with pytest.raises(UserError, match="ZeRO stage 0 with train.precision bf16"):
        check_inputs(runs)
    check_inputs([run for run in runs if run.config.train.precision == "fp32"])


def test_how_each_run_is_scored_must_fit_its_data(planned):
    runs = [planned(), planned(evaluation__vae="nowhere")]
    for given in (runs, runs[::-1]):
        with pytest.raises(UserError, match="evaluation.vae decodes latents"):
            check_inputs(given)
