"""Wrong and hostile studies: each is told in one line with an exit code, nothing is run and nothing is written outside the study."""

import os
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.rundir import FAILED, RUNNING, RunDir
from ditscale.studies.launch.start import load_site
from ditscale.studies.launchers.hosts import read_hostfile
from ditscale.studies.launchers.process import ActiveRun, Command
from ditscale.studies.spec.spec import PlannedRun

HEAD = "version: 1\nname: s\nmetric: {name: fd_digits_cnn}\n"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
WILD = ("a b", "a'b", 'a"b', "$(touch gone)", "`touch gone`", "a;touch gone", "a\nb", "a\x1b[2Jb", "../up", "/abs", "", ".", "..", "-x", "é")


@pytest.fixture
def base(tmp_path, values, repository, monkeypatch):
    """A valid study of two runs; what is relative lies in a folder that is looked at afterwards."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ds_configs").symlink_to(repository / "ds_configs")
    monkeypatch.chdir(tmp_path / "here")
    yield {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
           "parameters": {"seed": {"values": [0, 1]}}, "runs_dir": str(tmp_path / "here" / "runs")}
    assert {path.name for path in (tmp_path / "here").iterdir()} <= {"ds_configs", "runs"}
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "spec.yaml", "site.yaml", "hosts"}
    assert not list((tmp_path / "here").glob("runs/[!s]*"))


def refused(tmp_path, spec, *arguments, command="plan"):
    """The one line that a command says of a spec, given as text or as values."""
    (tmp_path / "spec.yaml").write_text(spec if isinstance(spec, str) else yaml.safe_dump(spec), encoding="utf-8", newline="")
    said = CliRunner().invoke(main, [command, str(tmp_path / "spec.yaml"), *arguments])
    assert said.exit_code == 2 and said.output.startswith("error: ") and said.output.count("\n") == 1, said.output + repr(said.exception)
    assert said.output.strip().isprintable()
    return said.output


@pytest.mark.parametrize("text, words", [
    (HEAD + "config: &a {model: *a}\n", "does an anchor contain itself"),
    (HEAD + "config: {}\nparameters: {seed: {values: &a [*a]}}\n", "does an anchor contain itself"),
    (HEAD + "config: {}\ninclude: [&a {seed: *a}]\n", "does an anchor contain itself"),
    ("&a [*a]", "does an anchor contain itself"),
    (LAUGHS, "has more than 1,000,000 values"),
    ("[" * 3000, "nested too deeply"),
    ("!!python/object/apply:os.system ['touch gone']", "could not determine a constructor"),
    ("a: !!int x", "a value that its tag does not allow"), ("a: !!bool x", "a value that its tag does not allow"),
    (f"a: {'9' * 5000}", "a value that its tag does not allow"),
    ("", "is empty; it should hold keys and values"), ("[1]", "expected a mapping"), ("a: \x00", "not valid YAML"), ("a:\n\tb: 1", "line 2: not valid YAML"),
    ('name: "a\\0b"', "has a character that no file name may contain"), ('name: "\\ud800"', "has a character that no file name"),
    ("name: a\nname: b", "the key 'name' is given twice"), ("1: 2", "is missing"),
])
def test_texts(base, tmp_path, text, words):
    assert words in refused(tmp_path, text)


@pytest.mark.parametrize("key, value, words", [
    ("parametrs", {}, "did you mean 'parameters'"), ("config.train.lrr", 1, "did you mean 'lr'"),
    ("parameters", {"seeed": {"value": 1}}, "did you mean 'seed'"), ("parameters", [1], "'parameters' is [1]"),
    ("parameters", {"seed": 3}, "'parameters.seed' is 3"), ("parameters", {"seed": {"values": []}}, "'values' is empty"),
    ("parameters", {"seed": {"values": [0, 0]}}, "two runs of the study are the same"),
    ("parameters", {"seed": {"values": [0, "x"]}}, "'seed' is 'x'"), ("parameters", {1: {"value": 1}}, "'parameters.1"),
    ("parameters", {"": {"value": 1}}, "unknown key ''"), ("bundles", {"v": [1]}, "'bundles.v' is [1]"),
    ("bundles", {"v": {"a": {}, "b": {}}}, "two runs of the study are the same"), ("include", [{}, {}], "two runs of the study are the same"),
    ("include", [3], "'include.0' is 3"), ("exclude", [{"seed": 0}, {"seed": 1}], "no runs"), ("exclude", [{}], "no runs"),
    ("config", None, "'config' is None"), ("config.model", "DiT", "'model' is 'DiT'"), ("config.train.lr", "fast", "'train.lr' is 'fast'"),
    ("config.train.lr", float("nan"), "'train.lr' is nan"), ("config.train.images", True, "'train.images' is True"),
    ("config.train.images", 10**15, "checkpoints; at most 100000 can be scored"), ("config.train.images", 10**30, "less than or equal to 9007199254740992"),
    ("config.data.resolution", 0, "'data.resolution' is 0"),
    ("limits", {"runs": 0}, "'limits.runs' is 0"), ("runs_dir", 3, "'runs_dir' is 3"), ("version", "1", "'version' is '1'"),
])
def test_values(base, tmp_path, key, value, words):
    set_key(base, key, value)
    assert words in refused(tmp_path, base)


@pytest.mark.parametrize("override", ["x", "=1", "seed=[", "seed=&a [*a]", "seed=[]", "seed=", "seed=!!python/name:os.system ''",
                                      "train.lr.x=1", "model.name=../../x", "data.path=\"\\0\""])
def test_overrides(base, tmp_path, override):
    refused(tmp_path, base, override)


@pytest.mark.parametrize("wild", WILD)
def test_names(base, tmp_path, wild):
    """Wherever a name of the study's becomes a path or a word of a command."""
    refused(tmp_path, {**base, "name": wild}, command="launch")
    for key, value in (("model.name", wild), ("model.name", f"DiT-{wild}/2"), ("model.block", wild), ("objective.name", wild),
                       ("formulation.name", wild), ("data.path", wild), ("evaluation.metric", wild)):
        refused(tmp_path, {**base, "parameters": {key: {"value": value}}}, command="launch")
    refused(tmp_path, base, f"model.name={wild}", command="launch")


@pytest.mark.parametrize("wild", [wild for wild in WILD if wild not in (".", "..")])
def test_any_name_of_the_data_is_harmless(base, tmp_path, wild):
    """It is no part of a path: the run ids are made of the same letters."""
    base["config"]["data"]["name"] = wild
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(base))
    said = CliRunner().invoke(main, ["plan", str(tmp_path / "spec.yaml"), "--wide"])
    assert said.exit_code == 0 and said.output.count("DiT-atto-4-baseline-flow-s") == 2


@pytest.mark.parametrize("key", ["name", "partition", "account", "qos", "gres"])
@pytest.mark.parametrize("wild", ["a b", "a'b", 'a"b', "a\nb", "a\tb", "", "a\\b"])
def test_words_of_a_site(tmp_path, key, wild):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "x", key: wild}))
    with pytest.raises(UserError, match="one word without spaces or quotes"):
        load_site(tmp_path / "site.yaml")


@pytest.mark.parametrize("host", ["-oProxyCommand=touch${IFS}gone", "$(touch${IFS}gone)", "a;touch", "`x`", "a|b", "^file", "a,b", "é"])
def test_names_of_hosts(tmp_path, host):
    """ssh would take the first for an option, and run it."""
    (tmp_path / "hosts").write_text(f"good slots=1\n{host} slots=1\n")
    with pytest.raises(UserError, match="has the line"):
        read_hostfile(str(tmp_path / "hosts"))


def test_hosts_that_are_not_there(base, tmp_path, digits_values):
    """deepspeed's own word for it is the reason of the run."""
    (tmp_path / "hosts").write_text("no-such-host-1.invalid slots=1\nno-such-host-2.invalid slots=1\n")
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "pair", "launcher": "deepspeed", "hostfile": str(tmp_path / "hosts")}))
    spec = {**base, "config": {**digits_values, "resources": {"accelerators_per_run": 2}}, "parameters": {"seed": {"value": 0}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    said = subprocess.run([sys.executable, "-c", "from ditscale.cli import main; main()", "launch", tmp_path / "spec.yaml", "--site",
                           tmp_path / "site.yaml"], capture_output=True, text=True, timeout=120)
    [run] = [RunDir(path) for path in (tmp_path / "here" / "runs" / "study").iterdir()]
    assert said.returncode == 1 and "no-such-host-1.invalid was not reachable" in said.stdout and "Traceback" not in said.stdout
    assert run.status()["state"] == FAILED and "was not reachable" in run.status()["reason"]
    (tmp_path / "hosts").write_text("twice slots=1\ntwice slots=1\n")
    assert "has the host twice twice" in refused(tmp_path, spec, "--site", str(tmp_path / "site.yaml"), command="launch")


@pytest.mark.parametrize("wild", ["a b", "$(touch gone)", "a;touch gone", "a'b", "`x`", "%h", "a\nb"])
def test_folders_that_a_shell_of_another_host_would_read(base, tmp_path, digits_values, wild):
    """deepspeed hands them to pdsh without quotes."""
    (tmp_path / "hosts").write_text("host1 slots=1\n")
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "pair", "launcher": "deepspeed", "hostfile": str(tmp_path / "hosts")}))
    spec = {**base, "config": digits_values, "runs_dir": f"runs/study/{wild}"}
    site = ("--site", str(tmp_path / "site.yaml"))
    assert "is passed to a shell on each host" in refused(tmp_path, spec, *site, "--launcher", "print", command="launch")
    assert "is passed to a shell on each host" in refused(tmp_path, spec, *site, command="launch")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 64 KiB at this folder; with options, anew."""
    folder = tmp_path / "here" / "runs"

    def mount(options="size=64k"):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk of its own cannot be mounted here: {done.stderr.strip()}")
        return folder
    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def test_a_full_disk_and_a_read_only_one(base, small_disk, tmp_path, digits_values):
    folder, spec = small_disk(), {**base, "config": digits_values}
    (folder / "study").mkdir()
    with pytest.raises(OSError), open(folder / "filler", "w") as filler:
        while True:
            filler.write("x" * 4096)
            filler.flush()
    assert "No space left on device" in refused(tmp_path, spec, command="launch")
    run = RunDir(folder / "study" / "run")
    run.path.mkdir()
    active = ActiveRun.__new__(ActiveRun)
    active.planned, active.process = PlannedRun(None, run), subprocess.Popen(["false"])
    active.since, active.was_asked = 0.0, False
    active.process.wait()
    for act in (active.poll, lambda: Command(("true",), {}).start(run.log)):
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            act()
    (folder / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    assert "cannot be written: Read-only file system" in refused(tmp_path, spec, command="launch")
    assert CliRunner().invoke(main, ["status", str(tmp_path / "spec.yaml")]).exit_code == 0


def test_a_lock_is_asked_for_without_writing(tmp_path):
    """The status of another user's run, from a folder that only they may write."""
    run = RunDir(tmp_path / "run")
    run.create({})
    run.set_status(RUNNING, images_seen=0)
    with run.lock():
        (run.path / "lock").chmod(0o444)
        before = os.stat(run.path / "lock").st_mtime_ns
        assert run.is_locked() and RunDir(run.path).is_locked()
    assert not run.is_locked() and os.stat(run.path / "lock").st_mtime_ns == before


@pytest.mark.parametrize("log", [None, "", "$ deepspeed\n"])
def test_a_job_that_was_killed_before_its_first_line(tmp_path, log):
    run = RunDir(tmp_path / "run")
    run.create({})
    if log is not None:
        run.log.write_text(log)
    run.settle(137)
    assert run.status()["state"] == FAILED and run.status()["reason"] == f"ended with exit code 137: {(log or '(empty log)').strip()}"


def test_files_that_a_crash_left_behind(base, tmp_path):
    """An empty status, metrics of no letters: the run is seen as far as it says something."""
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(base))
    from ditscale.studies.spec.spec import expand, load_spec
    run = expand(load_spec(tmp_path / "spec.yaml"), "spec")[0].run
    run.create({})
    (run.path / "status.json").write_text("")
    run.metrics.write_bytes(b"\xff\xfe\0\n" + b'{"images_seen": 64, "seconds": 1, "images_per_second": 64}\n{"imag')
    for command in ("status", "plan"):
        said = CliRunner().invoke(main, [command, str(tmp_path / "spec.yaml")])
        assert said.exit_code == 0 and run.run_id in said.output and "64" in said.output
