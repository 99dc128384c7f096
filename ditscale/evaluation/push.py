"""Sends an exported folder to the Hugging Face hub, or to a folder; by default it only says what it would send."""

import re
import tempfile
from pathlib import Path

from ditscale.errors import UserError, first_line
from ditscale.evaluation.export import copy_to, export, format_for
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.weights import check_new, run_config

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def push(run: RunDir, repo: str, *, send: bool = False, to_folder: str | None = None, private: bool = False, form: str | None = None,
         say=print, **options) -> None:
    """Export a run to a folder of a while, list it, and send it where that is asked for.

    Args:
        repo: OWNER/NAME.
        send: to the hub, under the account that huggingface_hub is logged in with.
        to_folder: instead, to a folder of this name.
        form, options: of ``export``; default: the format that most tools read and that holds the model.

    Raises:
        UserError: a bad name, huggingface_hub is missing, the hub refuses, or what ``export`` raises.
    """
    if not NAME.fullmatch(repo):
        raise UserError(f"'{repo}' is not the name of a repository: OWNER/NAME of letters, digits, '.', '_' and '-'")
    if send and to_folder:
        raise UserError(f"--send sends to the hub and --to-folder {to_folder} to a folder; give one of them")
    if to_folder:
        check_new(Path(to_folder))
    hub = _hub() if send else None                                             # before anything is written
    form = form or format_for(run_config(run))
    with tempfile.TemporaryDirectory(prefix="ditscale-") as aside:
        folder = Path(aside) / repo.split("/")[1]
        for line in export(run, folder, form, **options)[1:]:
            say(line)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            say(f"{path.stat().st_size:>14,} bytes  {path.relative_to(folder)}")
        if to_folder:
            copy_to(folder, Path(to_folder))
            say(f"{to_folder}: {len(files)} files")
        elif hub:
            say(_send(hub, repo, folder, private, run.run_id))
        else:
            say(f"nothing was sent: add --send to send these {len(files)} files to {repo} on the Hugging Face hub")


def _hub():
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("--send needs huggingface_hub: pip install 'ditscale[hub]'") from None
    return huggingface_hub


def _send(hub, repo: str, folder: Path, private: bool, run_id: str) -> str:
    try:
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=f"ditscale: {run_id}")
    except Exception as error:                                                 # the hub's, the network's, a missing login
        raise UserError(f"{repo}: not sent: {first_line(error)}") from None
    return f"sent: {getattr(done, 'commit_url', done)}"
