"""The status table: what a run says of itself is on its row."""

import yaml

from ditscale.rundir import DONE, FAILED
from ditscale.studies.show import show_status
from ditscale.studies.spec import expand, load_spec


def test_why_names_the_failure_and_the_warning(tmp_path, values, capsys):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                                    "parameters": {"seed": {"values": [0, 1, 2]}}, "runs_dir": str(tmp_path / "runs")}))
    spec = load_spec(path)
    runs = expand(spec, str(path))
    for planned in runs:
        planned.run.create({})
    warned, both, _ = (planned.run for planned in runs)
    warned.set_status(DONE, images_seen=640, warning="collapse at 320")
    both.set_status(FAILED, images_seen=64, reason="no memory", warning="collapse at 64")
    show_status(spec, runs)
    rows = [line for line in capsys.readouterr().out.splitlines() if "DiT-atto-4" in line]
    assert [row.split("│")[7].strip() for row in rows] == ["collapse at 320", "no memory; collapse at 64", ""]
