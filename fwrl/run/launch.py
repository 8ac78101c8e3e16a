"""A training from its configuration on: whoever starts it, a command or a program."""

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from agents.distributed import from_first, is_first, restarted
from fwrl.run.build import join, prepare
from fwrl.run.config import RunConfig
from fwrl.run.directory import as_begun, claimed, open_run
from fwrl.run.iteration import OnIteration
from fwrl.run.last_resort import LastResort
from fwrl.run.loop import train
from fwrl.run.precision import settled
from fwrl.run.track import check_tracker


def launch(
    config: RunConfig,
    directory: Path,
    fresh: bool,
    received: list[int],
    resort: LastResort,
    console: Console,
    on_iteration: OnIteration | None = None,
    track: str | None = None,
) -> int:
    """Begin a run in its directory, or continue the one that is there; returns the exit code.

    Args:
        config: The configuration that the user asks for.
        directory: The run's directory, which is made if it is not there.
        fresh: Start anew; what is there is set aside.
        received: Signals; the first one stops the training.
        resort: Told how to save, should the training not stop in time.
        console: Where to report; all processes but the first are silent.
        on_iteration: Called after each iteration.
        track: ``wandb`` mirrors there what TensorBoard gets.

    Raises:
        ConfigError: If the run cannot be begun or continued; what is there is as it was.
        CheckpointError: If there are checkpoints and none of them can be used.
    """
    # processes that a launcher starts again after a failure continue what was saved
    anew = fresh and not restarted()
    config = config if anew else as_begun(directory, config)
    with ExitStack() as stack:
        join(config)
        check_tracker(track)
        config = settled(config, None if anew else directory)
        setup = prepare(config)

        def open_it() -> bytes:
            stack.enter_context(claimed(directory, anew))
            return b"yes" if open_run(directory, config) else b""

        continued = bool(from_first(open_it))
        console.quiet = console.quiet or not is_first()
        rest = (received, resort, console, on_iteration, track)
        return train(config, setup, directory, continued, *rest)
