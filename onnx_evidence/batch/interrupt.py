"""Ctrl-C and SIGTERM: the first asks a run to stop where nothing is lost, the second ends it at once.

Python runs its handlers between its own steps, and so not while native code is at work: a session that never ends
would swallow all signals. The system's own handler writes each signal into a pipe meanwhile; a thread reads them there.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# What shells take for ended by Ctrl-C.
EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Takes the signals while in its ``with``.

    Parameters
    ----------
    at_once : bool
        Whether the first raises KeyboardInterrupt wherever Python is; else it waits until `check` is called.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._asked = False
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._former = -1

    def __enter__(self) -> "Interrupt":
        """Take the signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._former = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True).start()
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def _watch(self, pipe: int) -> None:
        """Hear of signals whatever the main thread is doing, until the other end is closed."""
        times = 0
        while heard := os.read(pipe, 1):
            times += heard[0] in _SIGNALS
            if times > 1:
                # Files are renamed when they are whole, and lines are cut off: nothing is half-written.
                os._exit(EXIT_CODE)
        os.close(pipe)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Stop here, if that was asked for.

        Raises
        ------
        KeyboardInterrupt
            If a signal came in the ``with``.
        """
        if self._asked:
            raise KeyboardInterrupt("Interrupted: the same command goes on from there")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._former)
            os.close(self._pipe[1])
