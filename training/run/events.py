"""TensorBoard's event files, written in the thread of the caller.

TensorBoard's own writer has a thread of its own: there a full disk ends in a traceback on the
terminal while the run goes on.
"""

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from base.files import naming_errors
from training.run.ownership.files import record


class EventFile:
    """A new event file in `directory`; events of older files from step `first_step` on are taken
    back.

    All methods raise OSError, naming the file, if it cannot be written.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        # Files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        record(directory, name)
        self._path = directory / name
        with naming_errors(self._path):
            self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int) -> None:
        """Adds one summary, as the functions of `torch.utils.tensorboard.summary` make them."""
        self._write(Event(step=step, summary=summary))

    def flush(self) -> None:
        """Writes everything so far to the disk."""
        with naming_errors(self._path):
            self._records.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with naming_errors(self._path):
            self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming_errors(self._path):
            self._records.write(event.SerializeToString())
