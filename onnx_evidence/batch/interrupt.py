"""Ctrl-C and SIGTERM: the first asks a run to stop where nothing is lost, the second ends it at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# What shells take for ended by Ctrl-C.
EXIT_CODE = 130


class Interrupt:
    """Takes the signals while in its ``with``; what works there asks `check` where it can stop."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        """Take the signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os._exit(EXIT_CODE)  # files are renamed when they are whole, and lines are cut off: nothing is half-written
        self._asked = True

    def check(self) -> None:
        """Stop here, if that was asked for.

        Raises
        ------
        KeyboardInterrupt
            Then.
        """
        if self._asked:
            raise KeyboardInterrupt("Interrupted: the same command goes on from there")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
