"""A file of events for TensorBoard, written whole record by whole record.

TensorBoard's own writer opens its file by name again and again, from a thread of its own; this one
holds on to the file that it has made.
"""

import errno
import os
import platform
import secrets
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from fwrl.files.plain_files import append_plain

NAMES = "events.out.tfevents.*"
EVENTS: Any = event_pb2


class EventFile:
    """A new file of events; each call that adds to it raises ``OSError`` if the disk is full."""

    def __init__(self, folder: Path) -> None:
        # by its last part nobody can know the name before, and put something in its place
        # readers take files in the order of their names: two may begin in the same second
        parts = (f"{time.time():.6f}", platform.node(), os.getpid(), secrets.token_hex(4))
        name = NAMES.replace("*", ".".join(map(str, parts)))
        self._file = append_plain(folder / name)
        self._add(EVENTS.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, summary: Any, step: int | None = None) -> None:
        """Add the values of a summary, at a step."""
        self._add(EVENTS.Event(wall_time=time.time(), step=step, summary=summary))

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, event: Any) -> None:
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        size, is_whole = os.fstat(self._file.fileno()).st_size, False
        try:
            is_whole = self._file.write(record.getvalue()) == record.tell()
        finally:
            # readers stop at half a record
            if not is_whole:
                self._file.truncate(size)
        if not is_whole:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
