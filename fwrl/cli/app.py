"""The commands. What a command needs is imported when it runs, so that help comes at once."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fwrl.config import ConfigError

MISTAKE, INTERRUPTED = 2, 130
# Seconds.
TIME_TO_SPEAK = 2.0

app = typer.Typer(
    name="fwrl",
    help="Train and evaluate reinforcement-learning agents with fast-weight memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as core.kind=lstm seed=1")
]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; `fwrl list configs` shows ours.")],
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run goes; runs/<config> unless given.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; an old run there is set aside.")
    ] = False,
) -> None:
    """Train an agent; an existing run of the same configuration continues."""
    from agents.distributed import from_first, is_first, leave, restarted
    from fwrl.allocator import keep_freed_memory
    from fwrl.cli.run_config import load_run_config
    from fwrl.cli.run_directory import default_run_directory, find_config, open_run
    from fwrl.cli.training import STOPPED, join, prepare, train

    keep_freed_memory()
    changes = overrides or []
    path = find_config(config)
    run_config = load_run_config(path, changes)
    directory = run_dir or default_run_directory(path, changes)
    join(run_config)
    setup = prepare(run_config)

    def open_it() -> bytes:
        # what a launcher starts again after a failure goes on from what it saved
        return b"yes" if open_run(directory, run_config, fresh and not restarted()) else b""

    continued = bool(from_first(open_it))
    code = train(run_config, setup, directory, continued, Console(quiet=not is_first()))
    if is_first() and code == STOPPED:
        typer.echo("stopped and saved; the same command continues")
    elif is_first():
        typer.echo(f"fwrl evaluate {directory}\ntensorboard --logdir {directory}")
    leave()
    raise typer.Exit(code)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    checkpoint: Annotated[str, typer.Option(help="best, last, a step or a path.")] = "best",
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Sample actions instead of taking the best.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    video: Annotated[Path | None, typer.Option(help="A folder for a video of one episode.")] = None,
) -> None:
    """Play whole episodes with a trained policy and report its returns."""
    from fwrl.allocator import keep_freed_memory
    from fwrl.cli.evaluation import evaluate_run, report

    keep_freed_memory()
    result = evaluate_run(run, episodes, checkpoint, stochastic, seed, video)
    typer.echo(report(result, as_json))


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; RUN/report.html unless given.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, a step or a path.")] = "best",
    episodes: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_steps: Annotated[int, typer.Option(min=1, max=2000, help="Of each episode.")] = 500,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Sample actions instead of taking the best.")
    ] = False,
) -> None:
    """Write a page that shows what a trained policy's memory recalled in an episode."""
    from fwrl.allocator import keep_freed_memory
    from fwrl.cli.inspection import Wish, inspect_run

    keep_freed_memory()
    wish = Wish(checkpoint, episodes, seed, max_steps, stochastic)
    typer.echo(inspect_run(run, out, wish))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="`fwrl list benchmarks` shows which.")],
    overrides: Overrides = None,
    preset: Annotated[
        str, typer.Option(help="smoke: under a minute; cpu: an hour or so; paper: as published.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Where results go; runs/<name>__<preset> unless given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per processor unless given.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; old results there are set aside.")
    ] = False,
) -> None:
    """Run one of the papers' benchmarks; results that are there are kept and added to."""
    from fwrl.cli.benchmarking import Request, run_benchmark

    request = Request(name, overrides or [], preset, out, jobs, fresh)
    raise typer.Exit(run_benchmark(request, Console()))


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="cores, rules, features, envs, configs or benchmarks.")
    ] = "",
) -> None:
    """Show what can be chosen."""
    from fwrl.cli.listing import show

    typer.echo(show(what))


def _complain(error: Exception) -> int:
    # of processes that a launcher started on this machine one speaks
    if os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(f"fwrl: {' '.join(str(error).split())}", err=True)
    else:
        # a launcher ends all processes when one has: the first must have spoken by then
        time.sleep(TIME_TO_SPEAK)
    return MISTAKE


def main() -> None:
    """Run a command. A user's mistake is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (ConfigError, typer.TyperException) as error:
        code = _complain(error)
    except _checkpoint_error() as error:
        code = _complain(error)
    sys.exit(code or 0)


def _checkpoint_error() -> type[Exception]:
    """What an unusable checkpoint raises; asked for only once something was raised."""
    from fwrl.checkpoint import CheckpointError

    return CheckpointError
