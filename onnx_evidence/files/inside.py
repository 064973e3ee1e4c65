"""Files below a folder, opened step by step without following a link: whoever made the folder, nothing leads out of it.

The folder itself is the user's word and may be a link. Below it every step is opened relative to the last one
(``openat``), so that no name can be exchanged in between.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

_CHUNK = 1 << 20
# Bytes of the largest file that is read, far above any picture, map or background; a file that holds nothing may claim
# to have any number.
MOST = 1 << 32
_LINK = "it is a link, behind which no results are kept: remove it, or take another -o"
_TWICE = "the file has another name elsewhere, and would change there too: remove it, or take another -o"
_IRREGULAR = "it is no regular file"
_FLAGS = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    "a+b": os.O_RDWR | os.O_APPEND | os.O_CREAT,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}
# No such things on Windows, where a step is looked at before it is taken.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_CAREFUL = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_BY_HANDLE = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd


def _wrong(found: os.stat_result, mode: str) -> str:
    """Why a file is not opened; '' where it is."""
    if not stat.S_ISREG(found.st_mode):
        return _IRREGULAR
    if mode != "rb" and found.st_nlink > 1:
        return _TWICE
    return ""


class Folder:
    """A folder that is open, and what is done to the names in it; its handle is None where systems have none."""

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path, self._handle = path, handle

    def _name(self, leaf: str) -> str:
        return leaf if self._handle is not None else str(self.path / leaf)

    def step(self, leaf: str, *, make: bool) -> "Folder":
        """The folder of a name in it; made where it is missing and ``make`` says so."""
        if make:
            try:
                os.mkdir(self._name(leaf), dir_fd=self._handle)
                self.sync()
            except FileExistsError:
                pass
        path = self.path / leaf
        if self._handle is None:
            if path.is_symlink():
                raise OSError(errno.ELOOP, _LINK)
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return Folder(path, None)
        try:
            return Folder(path, os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK, dir_fd=self._handle))
        except OSError as error:
            if self._is_link(leaf, error):
                raise OSError(errno.ELOOP, _LINK) from error
            raise

    def open(self, leaf: str, mode: str) -> BinaryIO:
        """Open a regular file; 'xb' makes one that is not there."""
        if self._handle is None and (self.path / leaf).is_symlink():
            raise OSError(errno.ELOOP, _LINK)
        try:
            opened = os.open(self._name(leaf), _FLAGS[mode] | _CAREFUL, 0o666, dir_fd=self._handle)
        except OSError as error:
            if self._is_link(leaf, error):
                raise OSError(errno.ELOOP, _LINK) from error
            raise
        found = os.fstat(opened)
        if wrong := _wrong(found, mode):
            os.close(opened)
            raise OSError(errno.EINVAL, wrong)
        stream: Any = os.fdopen(opened, mode, buffering=0 if mode == "ab" else -1)
        return stream  # type: ignore[no-any-return]

    def _is_link(self, leaf: str, error: OSError) -> bool:
        """Whether the system refused a name because it is a link."""
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            return False
        try:
            return stat.S_ISLNK(os.stat(self._name(leaf), dir_fd=self._handle, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def replace(self, old: str, new: str) -> None:
        """Rename a file, over another of the new name; a link of that name is replaced itself."""
        os.replace(self._name(old), self._name(new), src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def remove(self, leaf: str) -> None:
        """Remove a name, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(self._name(leaf), dir_fd=self._handle)

    def sync(self) -> None:
        """Have the names written to the disk; what files hold is another matter."""
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        """Give the handle back."""
        if self._handle is not None:
            os.close(self._handle)


@contextmanager
def opened(folder: Path, name: str, *, make: bool = False) -> Iterator[tuple[Folder, str]]:
    """The folder that holds a file below another one, open, and the file's last name.

    ``name`` is relative to ``folder``, with '/' between names; ``make`` says whether folders between are made where
    they are missing. OSError if a step is missing, a link, or no folder.
    """
    *steps, leaf = PurePosixPath(name).parts or ("",)
    if leaf in ("", "..") or name.startswith("/") or ".." in steps or "\0" in name:
        raise OSError(errno.EINVAL, "the name leads out of the folder")
    here = Folder(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if _BY_HANDLE else None)
    try:
        for step in steps:
            inner = here.step(step, make=make)
            here.close()
            here = inner
        yield here, leaf
    finally:
        here.close()


def open_inside(folder: Path, name: str, mode: str = "rb", most: int | None = None) -> BinaryIO:
    """Open a regular file below a folder; see `opened`.

    Parameters
    ----------
    folder : Path
        There already.
    name : str
        Of the file, relative to it.
    mode : {'rb', 'r+b', 'ab', 'a+b'}
        As of `open`; 'ab' is not buffered.
    most : int, optional
        Bytes that it may have.

    Returns
    -------
    file object

    Raises
    ------
    OSError
        If it cannot be opened, or is a link, a pipe, a device, too large, or, for writing, has another name elsewhere.
    """
    with opened(folder, name) as (parent, leaf):
        stream = parent.open(leaf, mode)
    if most is not None and (size := os.fstat(stream.fileno()).st_size) > most:
        stream.close()
        raise _too_large(size, most)
    return stream


def sha256_of(stream: BinaryIO) -> str:
    """The SHA-256 of all that is left to read of a file, in hexadecimal."""
    total = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        total.update(chunk)
    return total.hexdigest()


def open_regular(path: Path, most: int = MOST) -> BinaryIO:
    """Open a file of the user's for reading, through links, but never a pipe or a device: these have no end.

    Parameters
    ----------
    path : Path
    most : int
        Bytes that it may have.

    Returns
    -------
    file object

    Raises
    ------
    OSError
        If it cannot be opened, is no regular file, or too large.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no name of a file holds the character NUL")
    _refuse(os.stat(path), path, most)  # opening a device may do something already
    opened = os.open(path, os.O_RDONLY | (_CAREFUL & ~_NO_LINK))
    try:
        _refuse(os.fstat(opened), path, most)
    except OSError:
        os.close(opened)
        raise
    return os.fdopen(opened, "rb")


def _refuse(found: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, _IRREGULAR)
    if found.st_size > most:
        raise _too_large(found.st_size, most)


def _too_large(size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is absurdly large: {size} bytes, where such files have at most {most >> 20} MB")
