"""One writer per output folder: a lock that the system takes back when its holder dies."""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from onnx_evidence.errors import StoreError
from onnx_evidence.files import make_folder, open_inside

NAME = ".lock"


class FolderLock:
    """Holds a folder while in its ``with``, made where it is missing; a second one is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.left = False  # whether the last holder did not give the folder back: it was killed
        self._stream: BinaryIO | None = None

    def __enter__(self) -> "FolderLock":
        """Take the folder; StoreError where somebody has it, or it cannot be written."""
        try:
            make_folder(self.folder)
            while self._stream is None:
                self._stream = self._take()
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot write: {error.strerror or error}") from error
        return self

    def _take(self) -> BinaryIO | None:
        self.left = self.path.exists()
        stream = open_inside(self.folder, self.path.name, "a+b")
        if not _locked(stream):
            stream.seek(0)
            owner = stream.read().decode("ascii", "replace").strip()
            stream.close()
            raise StoreError(
                f"{self.folder}: another run writes there now ({owner or 'just started'}): wait for it, or take "
                "another -o"
            )
        # Its holder may have removed the file between our opening and our locking it: ours is then nobody's.
        if not self.path.exists() or os.fstat(stream.fileno()).st_ino != self.path.stat().st_ino:
            stream.close()
            return None
        stream.truncate(0)
        stream.write(f"process {os.getpid()}".encode())
        stream.flush()
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        assert self._stream is not None
        try:
            if os.name != "nt":  # a file that is open cannot be removed there
                self.path.unlink(missing_ok=True)
        except OSError:
            pass  # on a disk that turned read-only the lock still ends with the process
        self._stream.close()
        self._stream = None


def _locked(stream: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            stream.seek(1 << 20)  # behind what is read of it
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # what Windows says of a lock that is taken
        if os.name == "nt":
            return False
        raise
    return True
