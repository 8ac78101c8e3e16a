"""The commands. Each imports its modules when it runs, so that help comes at once."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fwrl.bench import check_name
from fwrl.cli.hub import hub
from fwrl.config import OneLineError
from fwrl.files.names import check_exists
from fwrl.run.exit_codes import FAILED, FINISHED, INTERRUPTED, MISTAKE, STOPPED
from fwrl.run.output import (
    Output,
    OutputClosedError,
    flush,
    interrupt,
    open_streams,
    tell,
)
from fwrl.run.yaml_files import find_readable

# Seconds that a process waits for the first one to report an error.
TIME_TO_SPEAK = 2.0

app = typer.Typer(
    name="fwrl",
    help="Train and evaluate reinforcement-learning agents with fast-weight memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(hub, name="hub")

Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; what is there is set aside.")]
Checkpoint = Annotated[str, typer.Option(help="best, last, a step or a path.")]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", help="Sample actions instead of taking the best.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", metavar="MODULE", help="Run a module that registers environments; repeatable."
    ),
]


@app.command()
def train(
    config: Annotated[
        Path,
        typer.Argument(help="A YAML file (`fwrl list configs` shows ours), or CartPole-v1."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="such as core.kind=lstm seed=1"),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run goes; runs/<config> unless given.")
    ] = None,
    fresh: Fresh = False,
    track: Annotated[
        str | None, typer.Option(help="wandb: mirror TensorBoard there; pip install 'fwrl[track]'.")
    ] = None,
    imports: Imports = None,
) -> None:
    """Train an agent; an existing run of the same configuration continues."""
    path = find_readable(config)

    from agents.distributed import is_first, leave
    from fwrl.run.config import load_run_config
    from fwrl.run.diagnosis import in_one_line
    from fwrl.run.directory import default_run_directory
    from fwrl.run.last_resort import ending_in_time
    from fwrl.run.launch import launch
    from fwrl.run.modules import import_modules, import_words
    from fwrl.run.process import keep_freed_memory
    from fwrl.run.signals import stop_signals

    keep_freed_memory()
    changes = overrides or []
    run_config = load_run_config(path, changes)
    import_modules(imports or [])
    directory = run_dir or default_run_directory(path, changes)
    with stop_signals() as received, ending_in_time(lambda: _say_stopped(received)) as resort:
        console = Output(lambda: received.append(signal.SIGPIPE))
        code = launch(run_config, directory, fresh, received, resort, console, track=track)
    if is_first() and code == STOPPED:
        _say_stopped(received)
    elif is_first() and code == FINISHED:
        words = shlex.join([str(directory), *import_words(imports or [])])
        remark = in_one_line(directory)
        if remark:
            tell(f"{directory}: {remark}")
        tell(f"fwrl evaluate {words}\n{shlex.join(['tensorboard', '--logdir', str(directory)])}")
    leave()
    raise typer.Exit(code)


def _say_stopped(received: list[int]) -> None:
    from fwrl.run.directory import command_typed

    line = f"stopped and saved; it goes on with\n{command_typed(leave_out=['--fresh'])}"
    if signal.SIGPIPE in received:
        typer.echo(f"fwrl: {line}", err=True)
    else:
        tell(line)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory, or a file of `fwrl export`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[env.KEY=VALUE]...", help="Another environment.")
    ] = None,
    *,
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    checkpoint: Checkpoint = "best",
    stochastic: Stochastic = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    video: Annotated[Path | None, typer.Option(help="A folder for a video of one episode.")] = None,
    recall: Annotated[
        bool,
        typer.Option("--recall/--no-recall", help="In the video, what each past step contributes."),
    ] = True,
    imports: Imports = None,
) -> None:
    """Play whole episodes with a trained policy and report its returns."""
    check_exists(run)

    from fwrl.run.evaluation import Request, evaluate_run, report
    from fwrl.run.modules import import_modules
    from fwrl.run.process import keep_freed_memory

    keep_freed_memory()
    import_modules(imports or [])
    request = Request(episodes, checkpoint, stochastic, seed, video, recall, overrides or ())
    tell(report(evaluate_run(run, request), as_json))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    file: Annotated[Path, typer.Argument(help="Its name ends with .safetensors, or with .onnx.")],
    checkpoint: Checkpoint = "best",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Insist on an .onnx file.")] = False,
) -> None:
    """Write a trained policy as one file.

    FILE.safetensors is read by evaluate and load_policy. FILE.onnx is one step with its memory as
    explicit inputs and outputs, for other programs.
    """
    check_exists(run)

    from fwrl.run.export import export_run

    folder = export_run(run, file, checkpoint, force, onnx)
    again = "" if file.suffix == ".onnx" else f"\n{shlex.join(['fwrl', 'evaluate', str(file)])}"
    tell(f"{folder} is now {file}{again}")


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; RUN/report.html unless given.")
    ] = None,
    checkpoint: Checkpoint = "best",
    episodes: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_steps: Annotated[int, typer.Option(min=1, max=2000, help="Steps of each episode.")] = 500,
    stochastic: Stochastic = False,
    imports: Imports = None,
) -> None:
    """Write a page that shows what a trained policy's memory recalled in an episode."""
    check_exists(run)

    from fwrl.cli.inspect.inspection import Wish, inspect_run
    from fwrl.run.modules import import_modules
    from fwrl.run.process import keep_freed_memory

    keep_freed_memory()
    import_modules(imports or [])
    wish = Wish(checkpoint, episodes, seed, max_steps, stochastic)
    tell(str(inspect_run(run, out, wish)))


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    control: Annotated[
        Path | None, typer.Option(help="The run of the same training with core.kind=none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say why a training does not learn, from what it has logged, and what to try."""
    check_exists(run)

    from fwrl.run.diagnosis import as_json as written
    from fwrl.run.diagnosis import diagnose, in_words

    found = diagnose(run, control)
    tell(written(run, found) if as_json else in_words(run, found))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="`fwrl list benchmarks` shows which.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as seeds=[0,1]")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="smoke: under a minute; cpu: an hour or so; paper: as published.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Where results go; runs/<name>__<preset> unless given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per processor unless given.")
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Run one of the papers' benchmarks; results that are there are kept and added to."""
    check_name(name)

    from fwrl.cli.bench import Request, run_benchmark

    request = Request(name, overrides or [], preset, out, jobs, fresh)
    raise typer.Exit(run_benchmark(request, Output(interrupt)))


@app.command("check-env")
def check_env(
    env: Annotated[
        str, typer.Argument(metavar="ID", help="A Gymnasium id, an Atari game or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="such as options.level=hard"),
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Episodes to see in each of two environments.")
    ] = 5,
    steps: Annotated[
        int, typer.Option(min=2, help="Steps after which no more episodes are played.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, max=2**30)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    imports: Imports = None,
) -> None:
    """Say whether an environment keeps the contract, continues exactly, and what it costs."""
    from fwrl.cli import check_env as checking
    from fwrl.run.modules import import_modules

    import_modules(imports or [])
    config = checking.find_env(env, overrides or [])
    with Console(stderr=True).status(f"checking {env}"):
        report = checking.check_env(config, seed, episodes, steps)
    if as_json:
        tell(checking.as_json(config, report))
    else:
        checking.show(config, report, Output(interrupt))
    raise typer.Exit(checking.exit_code(report))


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="A YAML file of tasks, columns and seeds.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as seeds=[0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where all goes; runs/compare__<file> unless given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; one per processor unless given.")
    ] = None,
    fresh: Fresh = False,
    imports: Imports = None,
) -> None:
    """Train several memories on several tasks and seeds; runs that are there are kept."""
    find_readable(file)

    from fwrl.cli.compare.command import run_comparison

    code = run_comparison(file, overrides or [], out, jobs, fresh, imports or [], Output(interrupt))
    raise typer.Exit(code)


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(help="A YAML file of a configuration and a space.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as seeds=[0,1]")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials of the whole study; as in the file unless given."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="A URL or a journal file that machines share; in --out unless given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where all goes; runs/tune__<file> unless given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials at once; one per processor unless given.")
    ] = None,
    fresh: Fresh = False,
    imports: Imports = None,
) -> None:
    """Search for a better configuration, by Optuna; pip install 'fwrl[tune]'."""
    find_readable(file)

    from fwrl.cli.tune.command import run_tuning

    changes = [*(overrides or []), *([] if trials is None else [f"trials={trials}"])]
    code = run_tuning(file, changes, storage, out, jobs, fresh, imports or [], Output(interrupt))
    raise typer.Exit(code)


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="cores, rules, features, envs, configs or benchmarks.")
    ] = "",
) -> None:
    """Show what can be chosen."""
    from fwrl.cli.listing import show

    tell(show(what))


def _complain(error: Exception) -> int:
    # of the processes that a launcher started on this machine, one reports
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # only the formatted message names the option
        text = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        typer.echo(f"fwrl: {' '.join(text.split())}", err=True)
    else:
        # a launcher ends all processes when one has ended: the first must have reported by then
        time.sleep(TIME_TO_SPEAK)
    return MISTAKE


def main() -> None:
    """Run a command. A user's mistake is one line and exit code 2."""
    open_streams()
    try:
        code = app(standalone_mode=False)
    except OutputClosedError:
        code = STOPPED
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (OneLineError, typer.TyperException) as error:
        code = _complain(error)
    except _environment_errors() as error:
        _complain(error)
        code = FAILED
    flush()
    sys.exit(code or FINISHED)


def _environment_errors() -> tuple[type[Exception], ...]:
    """Errors of environments and policies that fail; imported once something was raised."""
    from agents.actions import DivergedError
    from agents.evaluation import EvaluationError
    from envs import EnvFailure

    return EnvFailure, EvaluationError, DivergedError
