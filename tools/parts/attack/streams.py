"""Hostile surroundings for `attack.py`: streams closed or full, limits of the system, and the environment."""

import os
from collections.abc import Mapping

from parts.attack.cases import case, explain
from parts.attack.run import Attack, Place

_STREAMS = {
    "stdin is closed": '"$@" <&-',
    "stdout is closed": '"$@" >&-',
    "stderr is closed": '"$@" 2>&-',
    "stdout and stderr are closed": '"$@" >&- 2>&-',
    "all streams are closed": '"$@" <&- >&- 2>&-',
    "stdout is full": '"$@" >/dev/full',
    "stderr is full": '"$@" 2>/dev/full',
    "both are full": '"$@" >/dev/full 2>/dev/full',
    "nobody reads stdout": '{ "$@"; echo $? >../out/code; } | true; exit $(cat ../out/code)',
    "nobody reads stderr": '{ { "$@" 2>&3; echo $? >../out/code; } 3>&1 >/dev/null | true; }; exit $(cat ../out/code)',
    "stdin is a terminal's end": '"$@" </dev/tty || "$@" </dev/null',
    "stdout is only read": '"$@" 1</dev/null',
}


def _commands(place: Place, what: str) -> tuple[tuple[object, ...], ...]:
    place.model()
    place.pictures(2)
    place.write("bad.png", b"no picture")
    run = (
        "explain",
        "model.onnx",
        "pictures",
        "-o",
        "../out/maps",
        "--quality",
        "fast",
        "--device",
        "cpu",
        "--no-figures",
    )
    loud = ("explain", "model.onnx", "pictures", "bad.png", "-o", "../out/more", "--quality", "fast", "--no-figures")
    other = {
        "a run": run,
        "a run with a failure": loud,
        "inspect": ("inspect", "model.onnx"),
        "a refusal": ("verify", "x"),
    }
    return (other[what],)


def _kept(place: Place) -> str:
    maps = place.out / "maps" / "manifest.jsonl"
    return "" if not maps.exists() or maps.read_bytes().count(b"\n") == 2 else "a run that is done has not all maps"


# What is tried, and the exit codes where nothing is wrong with the streams.
_DONE = {"a run": 0, "a run with a failure": 3, "inspect": 0, "a refusal": 1}


@case("streams", "{}", [f"{what}: {how}" for how in _STREAMS for what in _DONE], quick=False)
def _stream(place: Place, given: str) -> Attack:
    what, _, how = given.partition(": ")
    # A stream that is closed keeps nobody from working; one that cannot be written is an error.
    codes = (_DONE[what],) if "closed" in how else (0, 1, 3)
    return Attack(_commands(place, what), codes, _kept, _STREAMS[how], silent=True)


@case("streams", "{}", ["a run: stderr is closed", "a run: stdout is full"], quick=True)
def _stream_quick(place: Place, given: str) -> Attack:
    return _stream(place, given)


_LIMITS = {
    "6 file handles": "ulimit -n 6",
    "12 file handles": "ulimit -n 12",
    "16 file handles": "ulimit -n 16",
    "24 file handles": "ulimit -n 24",
    "files of 4 kB": "ulimit -f 8",
    "files of nothing": "ulimit -f 0",
    "600 MB of memory": "ulimit -v 600000",
    "3 GB of address space": "ulimit -v 3000000",
    "a stack of 256 kB": "ulimit -s 256",
    "no rights for anybody": "umask 777",
    "a working directory that is gone": "mkdir -p ../out/gone && cd ../out/gone && rmdir ../gone",
    "signals that are ignored": "trap '' INT TERM PIPE HUP",
}


@case("streams", "a run with {}", _LIMITS)
def _limit(place: Place, limit: str) -> Attack:
    """Where Python itself cannot start, its own words are all that there is."""
    (command,) = _commands(place, "a run")
    started = (
        '"$1" -c "import numpy, onnxruntime, cv2, onnx, pydantic, matplotlib.figure" 2>/dev/null || exit 1; exec "$@"'
    )
    if "cd " in limit:
        command = tuple(
            str(place.inside / str(part)) if part in ("model.onnx", "pictures") else part for part in command
        )
        command = tuple(str(place.out / "maps") if part == "../out/maps" else part for part in command)
    return Attack((command,), (0, 1, 3), _kept, f"{limit}; {started}", silent=True)


_VARIABLES: dict[str, Mapping[str, str | None]] = {
    "an ASCII locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "an ASCII terminal": {"PYTHONIOENCODING": "ascii:strict"},
    "an encoding that there is not": {"LC_ALL": "xx_XX.nothing"},
    "no home": {"HOME": None, "XDG_CACHE_HOME": None},
    "a home that is not there": {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    "no place for temporary files": {"TMPDIR": "/nonexistent"},
    "no place for Matplotlib's files": {"MPLCONFIGDIR": "/proc/nowhere"},
    "a window system that is not there": {"MPLBACKEND": "Qt5Agg", "DISPLAY": ":99"},
    "a backend that there is not": {"MPLBACKEND": "nothing"},
    "threads that are no number": {"ONNX_EVIDENCE_THREADS": "x"},
    "threads of 10^9": {"ONNX_EVIDENCE_THREADS": "1000000000"},
    "threads below zero": {"ONNX_EVIDENCE_THREADS": "-1"},
    "threads of 10,000 digits": {"ONNX_EVIDENCE_THREADS": "9" * 10_000},
    "OpenMP's threads that are no number": {"OMP_NUM_THREADS": "x"},
    "a terminal of no columns": {"COLUMNS": "0"},
    "a terminal of -1 columns": {"COLUMNS": "-1"},
    "a terminal of 10^9 columns": {"COLUMNS": "1000000000"},
    "no assertions": {"PYTHONOPTIMIZE": "2"},
    "warnings as errors": {"PYTHONWARNINGS": "error"},
    "Python's development mode": {"PYTHONDEVMODE": "1"},
    "no variables but a path": {name: None for name in os.environ if name not in ("PATH", "PYTHONPATH")},
    "telemetry asked for": {"ORT_DISABLE_TELEMETRY": "0"},
    "GPUs that are not there": {"CUDA_VISIBLE_DEVICES": "99,\x1b[2J"},
    "limits of OpenCV": {"OPENCV_IO_MAX_IMAGE_PIXELS": "1", "OPENCV_IO_MAX_IMAGE_WIDTH": "1"},
    "options of the command line": {"ONNX_EVIDENCE_EXPLAIN_OUT": "/nonexistent", "_ONNX_EVIDENCE_COMPLETE": "x"},
}


@case("environment", "{}", _VARIABLES)
def _variable(place: Place, variables: Mapping[str, str | None]) -> Attack:
    place.model()
    place.write("pictures/h\u00fcte \u65e5.png", place.pictures().joinpath("0000.png").read_bytes())
    run = ("explain", "model.onnx", "pictures", "-o", "../out/maps", "--quality", "fast", "--device", "cpu")
    commands = (run, ("verify", "../out/maps"), ("summary", "../out/maps", "-o", "../out/maps.csv"))
    return Attack(commands, (0, 1, 2, 3), _kept, environment=variables)


@case(
    "environment",
    "'{}' in the working directory",
    ["matplotlibrc", "setup.cfg", "pyproject.toml", ".env", "sitecustomize.py"],
)
def _beside(place: Place, name: str) -> Attack:
    place.write(name, "backend: nothing\n" if name == "matplotlibrc" else "raise SystemExit(9)\n")
    run = explain("model.onnx", "pictures")
    place.model()
    place.pictures()
    return Attack((run,), (0,), shell='exec "$@"')
