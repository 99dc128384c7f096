"""One file knows the kinds of accelerators, and what needs none loads neither torch nor DeepSpeed for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ditscale
from ditscale import device
from ditscale.errors import UserError

ROOT = Path(ditscale.__file__).parent
HELP = {"cli/stats.py", "cli/data.py"}                                         # texts of --device


def words(path):
    """Names and texts of a file's code; comments and docstrings are none."""
    tree = ast.parse(path.read_text())
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
            and node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_other_file_knows_cuda():
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if any("cuda" in word.lower() for word in words(path))}
    assert found - HELP == {"device.py"}


@pytest.mark.parametrize("module", ["ditscale.digest", "ditscale.evaluation.images.files", "ditscale.evaluation.images.npz"])
def test_a_hash_needs_no_training_stack(module):
    code = f"import sys, {module}; sys.exit(bool({{'deepspeed', 'ditscale.training.loop'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["ditscale.cli", "ditscale.evaluation.command", "ditscale.evaluation.sampling.sampleset",
                                    "ditscale.data.encode", "ditscale.data.build"])
def test_commands_that_do_not_train_do_not_load_deepspeed(module):
    subprocess.run([sys.executable, "-c", f"import sys, {module}; sys.exit('deepspeed' in sys.modules)"], check=True)


def test_a_hash_needs_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, ditscale.digest; sys.exit('torch' in sys.modules)"], check=True)


def test_an_unknown_kind_is_one_line(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "npu")
    with pytest.raises(UserError, match="DS_ACCELERATOR=npu: the accelerator 'npu' is not supported; supported are cuda .* cpu"):
        device.kind_here()


def test_deepspeeds_choice_is_checked_before_a_group_is_made(monkeypatch):
    import deepspeed.accelerator

    from ditscale.training.distributed import join_world

    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", lambda: type("Made", (), {"device_name": lambda self: "mlu"})())
    with pytest.raises(UserError, match="DeepSpeed: the accelerator 'mlu' is not supported"):
        join_world()


def test_the_environment_chooses_among_those_known(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert device.names() == ["cpu"] and str(device.local_device()) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(device.local_device(kind)) for kind in ("cuda", "xpu", "cpu")] == ["cuda:3", "xpu:3", "cpu"]
    assert [device.is_accelerator(name) for name in ("cuda:0", "xpu", "cpu")] == [True, True, False]
