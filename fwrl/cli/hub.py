"""The commands that share exported policies on the Hugging Face Hub."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fwrl.files.names import check_exists
from fwrl.run.output import tell

hub = typer.Typer(
    help="Share exported policies on the Hugging Face Hub; pip install 'fwrl[hub]'.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Repository = Annotated[str, typer.Argument(metavar="REPO", help="USER/NAME, one policy in each.")]
File = Annotated[Path, typer.Argument(help="A file of `fwrl export`, FILE.safetensors.")]


@hub.command()
def push(
    file: File,
    repo: Repository,
    private: Annotated[bool, typer.Option("--private", help="If it is made now.")] = False,
) -> None:
    """Write a policy, and a page that describes it, to a repository of yours."""
    check_exists(file)

    from fwrl.run.hub import push_policy

    tell(f"{file} is now at {push_policy(file, repo, private)}")


@hub.command()
def pull(
    repo: Repository,
    file: File,
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Fetch the policy of a repository, and nothing else; no code is run."""
    from fwrl.run.hub import pull_policy

    commit = pull_policy(repo, file, revision, force)
    tell(f"{file} is {repo} at {commit}\n{shlex.join(['fwrl', 'evaluate', str(file)])}")
