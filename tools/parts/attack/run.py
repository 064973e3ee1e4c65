"""Attacks for `attack.py`: each runs in a process with limits, in a folder with witnesses, and gets a verdict.

Most run in processes that a server forks, which has imported the package already: `python -m onnx_evidence` takes a
second to start. Those that are about how a process is started, by its streams, limits and environment, start a new one.
"""

import contextlib
import importlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from parts.small_model import write_model, write_pictures

# Seconds of the processor and of the clock, resident bytes, and address space beyond what imports take.
SECONDS, PATIENCE, BYTES, SPACE = 10.0, 60.0, 2 << 30, 8 << 30
# Seconds that a process may sleep.
ASLEEP = 20.0
PRODUCT = "onnx_evidence.cli:main"
# Where the package is, and these tools.
_TOOLS = Path(__file__).parents[2]
_HOMES = (str(_TOOLS.parent), str(_TOOLS))
SECRET = b"not for us"
# What no input may have us read; writing is allowed nowhere but below OUT.
_SYSTEM = ("/etc/passwd", "/etc/shadow", "/dev/zero", "/proc/self/mem", "/proc/self/environ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_context = multiprocessing.get_context("forkserver")


class Place:
    """The folder of an attack: ``in``, where commands run, ``out``, which they may write, and ``outside``.

    Parameters
    ----------
    path : Path
        An empty folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside, self.out, self.outside, self.home = (path / name for name in ("in", "out", "outside", "home"))
        for folder in (self.inside, self.out, self.outside / "folder", self.home):
            folder.mkdir(parents=True)
        self.secret = self.outside / "secret"
        for secret in (self.secret, self.outside / "folder" / "file"):
            secret.write_bytes(SECRET)

    def model(self, name: str = "model.onnx") -> Path:
        """Write a model that is explained."""
        return write_model(self.inside / name)

    def pictures(self, count: int = 1) -> Path:
        """Write pictures 0000.png, ... into ``pictures``."""
        return write_pictures(self.inside / "pictures", count)

    def write(self, name: str, data: bytes | str) -> Path:
        """Write a file below ``in``."""
        path = self.inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def pipe(self, path: Path) -> Path:
        """Make a pipe that nobody writes to."""
        os.mkfifo(path)
        return path

    def sparse(self, path: Path, size: int = 1 << 40, start: bytes = b"") -> Path:
        """Make a file that claims a terabyte and takes nothing."""
        path.write_bytes(start)
        os.truncate(path, size)
        return path


@dataclass(frozen=True)
class Attack:
    """What is tried, and what may come of it.

    Attributes
    ----------
    commands : tuple of tuples
        Arguments of each command, run one after the other in the place's ``in``.
    codes : tuple of int
        Exit codes that are right for every one of them.
    right : callable, optional
        Says what is wrong afterwards, '' where nothing is; asked where the last command ended with exit code 0.
    shell : str
        A shell's command that starts '"$@"' in a way of its own.
    environment : mapping of str to str or None
        Variables besides the usual ones; None takes one away.
    silent : bool
        Whether a refusal has nowhere to be said.
    memory : int
        Resident bytes that are allowed.
    seconds : float
        Seconds of the processor that are allowed.
    """

    commands: tuple[tuple[object, ...], ...]
    codes: tuple[int, ...] = (1,)
    right: Callable[[Place], str] | None = None
    shell: str = ""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    silent: bool = False
    memory: int = BYTES
    seconds: float = SECONDS


class Ended(NamedTuple):
    """What became of a command; ``stopped`` says which limit ended it, ``opened`` what it should not have opened."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
    stopped: str
    opened: Sequence[str]


class Verdict(NamedTuple):
    """What became of an attack; ``through`` says why, where it went through."""

    through: str
    said: str
    seconds: float
    memory: int


class _Order(NamedTuple):
    program: str
    arguments: tuple[str, ...]
    place: Path
    environment: Mapping[str, str | None]


def used_seconds(pid: int) -> float:
    """Seconds of the processor that a process had."""
    return _used(pid)[0]


def _used(pid: int) -> tuple[float, bool]:
    """Seconds of the processor that a process had, and whether it sleeps."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK"), numbers[0] == "S"


def _peak(pid: int) -> int:
    """The most resident bytes that a process had; 0 where it has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


# In the forked process


def _serve(order: _Order, report: Connection) -> None:
    """Run a command as its own process would."""
    os.setsid()
    os.chdir(order.place / "in")
    for name, value in _environment(order).items():
        os.environ[name] = value
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        os.dup2(os.open(order.place.parent / name if number else name, flags | os.O_CREAT), number)
    opened: list[str] = []
    sys.addaudithook(_witness(order.place, opened))
    module, _, name = order.program.partition(":")
    main = getattr(importlib.import_module(module), name)
    space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (space + SPACE, space + SPACE))
    try:
        main(list(order.arguments), prog_name="onnx-evidence")
    finally:
        report.send(opened)


def _witness(place: Path, opened: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Notes files that are opened and should not be: the system's, and for writing those that are not below OUT."""
    allowed = (str(place / "out"), str(place / "home"), os.devnull)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path, flags = os.fsdecode(arguments[0]), arguments[2] or 0
        # A bare name is one in a folder that is held open: what became of it is seen afterwards.
        writes = flags & (os.O_WRONLY | os.O_RDWR) and "/" in path and not path.startswith(allowed)
        if writes or path in _SYSTEM:
            opened.append(path)

    return hear


def _environment(order: _Order) -> dict[str, str]:
    home = order.place / "home"
    own = {"HOME": str(home), "TMPDIR": str(home), "MPLCONFIGDIR": str(order.place.parent / "matplotlib")}
    given = {**own, **order.environment}
    return {name: value for name, value in given.items() if value is not None}


# In the process that watches


class Runner:
    """Runs attacks.

    Parameters
    ----------
    program : str
        Module and function that take the arguments: the command, or a stand-in.
    """

    def __init__(self, program: str = PRODUCT) -> None:
        self.program = program
        os.environ.pop("PYTHONUNBUFFERED", None)  # it hides what fails to be written as Python ends
        # Forked processes are as far as the server is: it has imported everything, and finds it by this.
        os.environ["PYTHONPATH"] = os.pathsep.join([*_HOMES, os.environ.get("PYTHONPATH", "")])
        cases = [f"{__package__}.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")]
        _context.set_forkserver_preload(["onnx_evidence.cli.commands", "onnx_evidence.results.figure", *cases])

    def judge(self, make: Callable[[Place], Attack]) -> Verdict:
        """Make an attack in a folder of its own, run it, and judge.

        Parameters
        ----------
        make : callable
            Writes the files of an attack into a place.

        Returns
        -------
        Verdict
        """
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            place = Place(Path(folder) / "place")
            attack = make(place)
            before = look_around(place)
            wrong = said = ""
            seconds, memory = 0.0, 0
            for command in attack.commands:
                ended = self._run(attack, tuple(map(str, command)), place)
                wrong = wrong or through(attack, str(command[0]), ended)
                said = said or _said(ended)
                seconds, memory = max(seconds, ended.seconds), max(memory, ended.memory)
                if wrong:
                    break
            if not wrong and ended.code == 0 and attack.right is not None:
                wrong = attack.right(place)
            said = said.replace(f"{place.path}/", "")
            both = "; ".join(each for each in (wrong, _touched(before, place)) if each)
            return Verdict(both, said, seconds, memory)

    def _run(self, attack: Attack, arguments: tuple[str, ...], place: Path | Place) -> Ended:
        assert isinstance(place, Place)
        order = _Order(self.program, arguments, place.path, attack.environment)
        for name in ("stdout", "stderr"):
            (place.path.parent / name).write_bytes(b"")
        run = self._start_new if attack.shell or attack.environment else self._fork
        code, seconds, memory, stopped, opened = run(order, attack)
        # Sockets and the like come in bytes that are no text.
        said, complained = ((place.path.parent / name).read_text("utf-8", "replace") for name in ("stdout", "stderr"))
        return Ended(code, said, complained, seconds, memory, stopped, opened)

    def _fork(self, order: _Order, attack: Attack) -> tuple[int, float, int, str, Sequence[str]]:
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_serve, args=(order, theirs))
        process.start()
        theirs.close()
        assert process.pid is not None

        def wait(seconds: float) -> bool:
            process.join(seconds)
            return process.exitcode is not None

        seconds, memory, stopped = _watch(process.pid, wait, attack)
        opened: list[str] = []
        with contextlib.suppress(EOFError, OSError):
            opened = ours.recv() if ours.poll() else []
        ours.close()
        code = process.exitcode or 0
        process.close()
        return code, seconds, memory, stopped, opened

    def _start_new(self, order: _Order, attack: Attack) -> tuple[int, float, int, str, Sequence[str]]:
        module = order.program.partition(".cli")[0] if order.program == PRODUCT else order.program.partition(":")[0]
        command = [sys.executable, "-m", module, *order.arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_HOMES), **_environment(order)}
        for name, value in attack.environment.items():
            if value is None:
                environment.pop(name, None)
        shell = ["sh", "-c", attack.shell, "sh"] if attack.shell else []
        with (order.place.parent / "stdout").open("wb") as out, (order.place.parent / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*shell, *command],
                cwd=order.place / "in",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_limit,
            )

            def wait(seconds: float) -> bool:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                return process.returncode is not None

            seconds, memory, stopped = _watch(process.pid, wait, attack)
        return process.returncode, seconds, memory, stopped, ()


def _watch(pid: int, wait: Callable[[float], bool], attack: Attack) -> tuple[float, int, str]:
    """Wait for a process, and end its session at a limit; what others take of the processor does not count."""
    begin = awake = time.monotonic()
    seconds, memory, stopped = 0.0, 0, ""
    while not wait(0.02):
        with contextlib.suppress(OSError, IndexError):
            used, sleeps = _used(pid)
            if used > seconds or not sleeps:
                awake = time.monotonic()
            seconds, memory = max(seconds, used), max(memory, _peak(pid))
        if seconds > attack.seconds:
            stopped = f"more than {attack.seconds:.0f} s of the processor"
        elif time.monotonic() - awake > ASLEEP:
            stopped = f"sleeps for more than {ASLEEP:.0f} s"
        elif time.monotonic() - begin > PATIENCE + 3 * attack.seconds:
            stopped = "never ends"
        if stopped:
            os.killpg(pid, signal.SIGKILL)
            wait(10)
            break
    if memory > attack.memory:
        stopped = f"more than {attack.memory >> 20} MB"
    return seconds, memory, stopped


def _limit() -> None:
    space = SPACE + (4 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _said(ended: Ended) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    return lines[-1].removeprefix("Error: ") if lines else ""


def through(attack: Attack, command: str, ended: Ended) -> str:
    """Why what became of a command is no answer to an attack.

    Parameters
    ----------
    attack : Attack
        What was tried.
    command : str
        Its name.
    ended : Ended
        What became of it.

    Returns
    -------
    str
        '' where it is one.
    """
    both = ended.stdout + ended.stderr
    errors = sum(line.startswith("Error: ") for line in ended.stderr.splitlines())
    reports = command in ("verify", "sanity")  # which say on stdout what is wrong
    last = (ended.stderr.strip() or "nothing is said").splitlines()[-1][:200]
    for wrong, why in (
        (ended.stopped, ended.stopped),
        ("Traceback" in both or "Exception ignored" in both, f"a traceback: {last}"),
        (ended.code < 0, f"ended by signal {-ended.code}"),
        (ended.code not in attack.codes, f"exit code {ended.code}: {last}"),
        (_CONTROL.search(both), "control characters are printed"),
        (ended.code == 1 and errors != 1 and not reports and not attack.silent, f"{errors} lines say why: {last}"),
        (ended.opened, f"opens {next(iter(ended.opened), '')}"),
    ):
        if wrong:
            return why
    return ""


def look_around(place: Place) -> dict[str, tuple[object, ...]]:
    """Everything in a place but what may be written: what it is, and when it was changed, and read where that counts.

    Parameters
    ----------
    place : Place
        Access times of the files outside are set back, so that reading them shows.

    Returns
    -------
    dict
        By path.
    """
    for path in place.outside.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(0, path.stat().st_mtime_ns))
    twice = {str(path) for path in place.outside.rglob("*") if path.is_file() and path.lstat().st_nlink > 1}
    return dict(_seen(place, twice)) | {"": tuple(twice)}


def _seen(place: Place, twice: Collection[str]) -> Iterator[tuple[str, tuple[object, ...]]]:
    for folder, folders, names in os.walk(place.path):
        if Path(folder) == place.path:
            folders[:] = [name for name in folders if name not in ("out", "home")]
        for name in (*folders, *names):
            path = Path(folder, name)
            found = path.lstat()
            # What has another name in OUT is there as much as here: it may be read and removed there, not written.
            alone = place.outside in path.parents and stat.S_ISREG(found.st_mode) and str(path) not in twice
            changed = 0 if str(path) in twice else found.st_ctime_ns
            times = (found.st_mtime_ns, changed, found.st_atime_ns if alone else 0)
            yield str(path), (stat.S_IFMT(found.st_mode), found.st_size, *times)


def _touched(before: Mapping[str, tuple[object, ...]], place: Place) -> str:
    after = dict(_seen(place, [str(each) for each in before[""]]))
    paths = sorted((before.keys() | after.keys()) - {""}, key=len, reverse=True)  # files before their folders
    for path in paths:
        if before.get(path) != after.get(path):
            old, new = before.get(path), after.get(path)
            what = "written" if old is None or new is None or old[:4] != new[:4] else "read"
            return f"{Path(path).relative_to(place.path)} is {what}"
    return ""


def overwrite(path: Path, data: bytes) -> None:
    """Write a file, but for a pipe, at which writing would wait for ever."""
    if not path.is_fifo():
        path.write_bytes(data)


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
