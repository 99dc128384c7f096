"""YAML reads as people expect."""

import pytest

from ditscale.errors import UserError
from ditscale.yamlfile import parse_yaml, read_yaml


@pytest.mark.parametrize("text, value", [
    ("1e18", 1e18), ("3.0e18", 3e18), ("1e+18", 1e18), ("-1e-4", -1e-4), (".5", 0.5), ("1_000", 1000), ("24:00:00", "24:00:00"),
    ("2026-11-21", "2026-11-21"), ("on", "on"), ("yes", "yes"), ("true", True), ("null", None), ("007", 7), ("1.2.3", "1.2.3"),
])
def test_scalars(text, value):
    parsed = parse_yaml(f"key: {text}", "test")["key"]
    assert parsed == value and type(parsed) is type(value)


def test_key_given_twice_is_refused_with_its_line():
    with pytest.raises(UserError, match="line 3.*'lr' is given twice"):
        parse_yaml("train:\n  lr: 1\n  lr: 2\n", "spec.yaml")


def test_broken_yaml_names_file_and_line(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("a: [1, 2\nb: 3\n")
    with pytest.raises(UserError, match="spec.yaml line 2"):
        read_yaml(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary.yaml: not a text file"):
        read_yaml(tmp_path / "binary.yaml")
