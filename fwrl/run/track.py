"""A mirror of a run's TensorBoard at Weights & Biases; its failures never reach the training.

A thread of its own sends what was logged: a server that is slow or away delays no training. What
it could not send stays in ``wandb/`` of the run's directory.
"""

import os
import re
import secrets
import shlex
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any

from PIL import Image

from agents.distributed import is_first
from fwrl.config import ConfigError, OneLineError, nearest
from fwrl.files.json_files import parse_json
from fwrl.files.plain_files import FileError, read_plain, replace_plain
from fwrl.run.config import RunConfig

TRACKERS = ("wandb",)
# The file with the run's name at each tracker, and the library's own folder.
NAMES, FOLDER = "track.json", "wandb"
LARGEST_NAMES = 4096
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Summaries that wait for a server at most; later ones are left out.
MOST_WAITING = 10_000
# Seconds that the library may take to find its server, to send the rest, and both together.
FINDING, SENDING, PATIENCE = 20.0, 20.0, 45.0
GIF = b"GIF8"
# No code, outputs or measures of the machine are sent, and the library prints nothing.
SETTINGS: dict[str, Any] = {
    "init_timeout": FINDING,
    "finish_timeout": SENDING,
    "finish_timeout_raises": True,
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


def check_tracker(track: str | None) -> None:
    """Check, before a run begins or continues, that it can be mirrored.

    Raises:
        ConfigError: If there is no such tracker, its package is missing, or it knows no user.
    """
    if track is None:
        return
    if track not in TRACKERS:
        raise ConfigError(f"--track is {track!r}; {nearest(track, TRACKERS)}")
    library = _library()
    if not is_first():
        return
    try:
        online = library.setup(library.Settings(**SETTINGS)).settings.mode == "online"
        known = not online or library.login(verify=False, prompt=False)
    except library.Error as error:
        raise ConfigError(f"--track wandb: {error}") from None
    if not known:
        raise ConfigError("--track wandb: not logged in; `wandb login`, or set WANDB_MODE=offline")


def _library() -> Any:
    """The wandb library.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        library: Any = import_module("wandb")
    except ImportError:
        library = None
    # a folder of this name, as the library leaves behind, can be imported too
    if not hasattr(library, "init"):
        raise ConfigError("--track wandb needs the package wandb; pip install 'fwrl[track]'")
    return library


class Mirror:
    """Sends every summary that TensorBoard gets; a continued run goes on in the same place."""

    def __init__(self, directory: Path, config: RunConfig, say: Callable[[str], None]) -> None:
        """Begin to send, which takes a while.

        Args:
            directory: The run's directory; ``track.json`` in it holds the run's name at the server.
            config: Sent first.
            say: Reports, in lines, where the run is to be seen and what has failed.

        Raises:
            ConfigError: If ``wandb`` in the directory is a link.
            FileError: If the file with the name cannot be read or written.
        """
        self._say, self._told = say, False
        self._folder = directory / FOLDER
        # a stranger's run may have a link that leads anywhere
        if self._folder.is_symlink():
            raise ConfigError(f"{self._folder}: is a symbolic link; it should be a folder")
        self._begin = {
            "project": os.environ.get("WANDB_PROJECT", "fwrl"),
            "name": directory.resolve().name,
            "id": _run_id(directory),
            "dir": str(directory),
            "resume": "allow",
            "config": config.model_dump(mode="json"),
            "allow_val_change": True,
        }
        self._waiting: Queue[tuple[Any, int] | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, summary: Any, step: int) -> None:
        """Send the values of a summary, at a step, in a while."""
        try:
            self._waiting.put_nowait((summary, step))
        except Full:
            self._failed("too much waits to be sent; some of it is left out")

    def close(self) -> None:
        """Wait until all is sent, or for ``PATIENCE`` seconds."""
        try:
            self._waiting.put(None, timeout=PATIENCE)
        except Full:
            pass
        else:
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._unsent()

    def _work(self) -> None:
        library, run = self._start()
        while (waiting := self._waiting.get()) is not None:
            summary, step = waiting
            if run is None:
                continue
            try:
                run.log(_values(library, summary), step=step)
            # whatever the library raises, the next summary may be fine
            except Exception as error:
                self._failed(error)
        try:
            if run is not None:
                run.finish()
        except Exception:
            self._unsent()

    def _start(self) -> tuple[Any, Any]:
        """The library and the run, which is on the disk where no server answers; None if none."""
        library: Any = None
        try:
            library = _library()
            library.setup(library.Settings(**SETTINGS))
            try:
                run = library.init(**self._begin)
            except library.Error as error:
                self._failed(error)
                run = library.init(**self._begin, mode="offline")
            later = f"`{self._sync('offline-run')}` sends it"
            self._say(f"wandb: {run.url or later}")
        except Exception as error:
            self._failed(error)
            return library, None
        return library, run

    def _sync(self, kind: str) -> str:
        """The command that sends what is on the disk."""
        return f"wandb sync {shlex.quote(str(self._folder))}/{kind}-*"

    def _unsent(self) -> None:
        self._told = True
        self._say(f"wandb: not all was sent; `{self._sync('*run')}` sends what is on the disk")

    def _failed(self, reason: object) -> None:
        if not self._told:
            self._told = True
            what = str(reason) or type(reason).__name__
            self._say(str(OneLineError(f"wandb: {what}; the training goes on")))


def _values(library: Any, summary: Any) -> dict[str, Any]:
    """The values of a summary by their tags: numbers, pictures and films."""
    found: dict[str, Any] = {}
    for value in summary.value:
        if value.WhichOneof("value") == "simple_value":
            found[value.tag] = value.simple_value
        elif value.WhichOneof("value") == "image":
            data = value.image.encoded_image_string
            if data.startswith(GIF):
                found[value.tag] = library.Video(BytesIO(data), format="gif")
            else:
                found[value.tag] = library.Image(Image.open(BytesIO(data)))
    return found


def _run_id(directory: Path) -> str:
    """The run's name at the server, which is chosen when it is mirrored for the first time.

    Raises:
        FileError: If the file that holds it cannot be read or written.
    """
    path = directory / NAMES
    try:
        names = parse_json(read_plain(path, LARGEST_NAMES), str(path))
    except FileNotFoundError:
        chosen = secrets.token_hex(4)
        replace_plain(path, f'{{"wandb": "{chosen}"}}\n'.encode())
        return chosen
    match names:
        case {"wandb": str(known)} if RUN_ID.fullmatch(known):
            return known
        case _:
            raise FileError(f"{path}: names no run of wandb's; delete it to begin a new one")
