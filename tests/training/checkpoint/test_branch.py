"""A branch is, bit for bit, the run of its length from the beginning; its trunk keeps what it starts from."""

import pytest

from ditscale.errors import TrainingFailed, UserError
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.branch import branch_off, has_started, why_not_yet
from ditscale.training.checkpoint.folders import has_state, images_of, list_checkpoints
from ditscale.training.checkpoint.weights import rebuild
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

BATCH, SHORT, LONG = 64, 5 * 64, 10 * 64
POINT = 3 * 64                                                                 # the last 40 % decay
SCHEDULE = {"train.lr_schedule": "wsd", "train.lr_decay": "one_minus_sqrt", "train.lr_decay_share": 0.4, "train.warmup_images": 128,
            "train.checkpoint_every_images": 128,
            "train.ema_lengths": [0.05, 0.1], "train.ema_decays": [0.5], "resources.log_every_images": BATCH, "resources.keep_checkpoints": 1,
            "evaluation": None}
TEACHER = {"name": "discriminative", "teacher_momentum": 0.9, "teacher_temperature_ramp": 0.0}
CASES = [("zero1", "bf16", TEACHER), ("zero3", "fp32", {"name": "masked", "unmasking_images": 64})]


@pytest.fixture
def family(make_run):
    """The run of the short length, the trunk and the branch of that length: (config, run) of each."""
    def make(name="", **changes):
        trunk = f"{name}trunk"
        return [make_run(run, SCHEDULE | changes | own) for run, own in (
            (f"{name}straight", {"train.images": SHORT}), (trunk, {"train.images": LONG, "resources.branch_images": [POINT]}),
            (f"{name}branch", {"train.images": SHORT, "parent": {"run": trunk, "images": POINT}}))]
    return make


def test_on_two_ranks_with_zero_1_and_3_averages_and_a_teacher(family, on_ranks):
    families = [family(f"{number}-", **{"resources.deepspeed": f"ds_configs/{strategy}.json", "train.precision": precision, "objective": objective,
                                        "resources.accelerators_per_run": 2, "resources.micro_batch": 16})
                for number, (strategy, precision, objective) in enumerate(CASES)]
    on_ranks(2, *(run for runs in families for _, run in runs))
    for runs, case in zip(families, CASES):
        assert_equal(*(run for _, run in runs), case)


def test_stopped_in_its_decay_and_resumed(family, world):
    (straight_config, straight), (trunk_config, trunk), (config, branch) = family()
    assert train(straight_config, straight, world) and train(trunk_config, trunk, world)
    branch_off(branch, config)
    calls = iter(range(100))
    assert not train(config, branch, world, stop=lambda: next(calls) >= 0)     # after one step of two
    branch_off(branch, config)                                                 # does nothing: it has started
    assert train(config, branch, world)
    assert_equal(straight, trunk, branch, "one rank")
    wanted, _ = rebuild(straight, 0.07, SHORT)
    found, _ = rebuild(branch, 0.07, SHORT)
    assert all(found[name].equal(value) for name, value in wanted.items())


def assert_equal(straight, trunk, branch, case):
    of_straight, of_branch = (list_checkpoints(run)[-1] for run in (straight, branch))
    files = sorted(path.name for path in of_straight.glob("*.safetensors"))
    assert files == sorted(path.name for path in of_branch.glob("*.safetensors")) and len(files) >= 6
    for name in files:
        assert (of_straight / name).read_bytes() == (of_branch / name).read_bytes(), (case, name)
    assert losses(branch) == {images: terms for images, terms in losses(straight).items() if images > POINT}
    assert {images: terms for images, terms in losses(trunk).items() if images <= POINT} == {
        images: terms for images, terms in losses(straight).items() if images <= POINT}
    rates = [next(line["lr"] for line in read_lines(run.metrics) if line["images_seen"] == SHORT) for run in (straight, branch, trunk)]
    assert rates[0] == rates[1] < rates[2]                                     # the trunk has not decayed by then


def losses(run):
    return {line["images_seen"]: {name: value for name, value in line.items() if name.startswith("loss/")} for line in read_lines(run.metrics)}


def test_the_trunk_keeps_the_state_until_the_branch_has_started(family, world):
    _, (trunk_config, trunk), (config, branch) = family()
    assert why_not_yet(branch, config) == f"waits for its trunk trunk: queued, 0 of {POINT} images"
    assert train(trunk_config, trunk, world)
    trunk.set_status("done", images_seen=LONG)
    kept = [images_of(path) for path in list_checkpoints(trunk) if has_state(path)]
    assert kept == [POINT, LONG] and why_not_yet(branch, config) == "" and not has_started(branch)
    branch_off(branch, config)
    assert [images_of(path) for path in list_checkpoints(trunk) if has_state(path)] == [LONG]
    assert POINT not in map(images_of, list_checkpoints(trunk))                # not a multiple of checkpoint_every_images
    spent = [line for line in read_lines(trunk.metrics) if line["images_seen"] <= POINT]
    assert branch.read_record()["parent"] == {"run": "trunk", "images": POINT, "train_seconds": sum(line["seconds"] for line in spent),
                                              "accelerator_hours": spent[-1]["accelerator_hours"]}
    assert branch.status()["images_seen"] == POINT and has_started(branch)
    for path in (trunk.checkpoints, trunk.path):                               # the trunk is gone: the branch has its own
        path.rename(path.with_name("gone"))
    assert train(config, branch, world)


def test_a_running_trunk_drops_it_at_its_next_checkpoint(family, world):
    _, (trunk_config, trunk), (config, branch) = family()
    started = []

    def start_branch():
        if not started and why_not_yet(branch, config) == "":
            started.append(branch_off(branch, config))
            assert has_state(trunk.checkpoints / f"images-{POINT:012d}")
    assert train(trunk_config, trunk, world, after_checkpoint=start_branch) and started
    assert POINT not in map(images_of, list_checkpoints(trunk))


def test_branches_that_cannot_start(family, world):
    _, (trunk_config, trunk), (config, branch) = family()
    trunk.set_status("failed", images_seen=128, reason="no space left")
    assert why_not_yet(branch, config) == f"its trunk trunk failed at 128 of the {POINT} images that it needs: no space left"
    with pytest.raises(UserError, match="failed at 128"):
        branch_off(branch, config)
    trunk.set_status("done", images_seen=LONG)
    with pytest.raises(UserError, match="is past 192 images and has no training state there"):
        branch_off(branch, config)
    with pytest.raises(TrainingFailed, match="no complete training state"):
        train(config, branch, world)
    assert train(trunk_config, trunk, world)
    masters = trunk.checkpoints / f"images-{POINT:012d}" / "masters.safetensors"
    masters.write_bytes(masters.read_bytes()[:-1])
    with pytest.raises(UserError, match="masters.safetensors does not match its sha256"):
        branch_off(branch, config)
    assert not has_started(branch) and not (branch.checkpoints / "latest").exists()
