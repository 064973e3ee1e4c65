"""A stand-in for the command that does everything wrong, to show that `attack.py` sees it."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def _naive(arguments: Sequence[str]) -> None:
    """What a program might do that trusts its files: read all, as they come, and write where they say."""
    out = Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else Path(arguments[1])
    for name in [each for each in arguments[1:] if Path(each).is_file() or Path(each).is_fifo()]:
        if name.endswith((".npy", ".npz")):
            np.load(name, allow_pickle=True)
        elif name.endswith((".txt", ".json")):
            json.loads(Path(name).read_text())
    for folder in [Path(each) for each in arguments[1:] if Path(each).is_dir()]:
        for path in sorted(folder.iterdir()):
            print(path.name)
    manifest = out / "manifest.jsonl"
    for line in manifest.read_text().splitlines() if manifest.exists() else ():
        (out / json.loads(line)["map"]).read_bytes()
    (out / ".lock").write_text("mine")


_MISDEEDS: dict[str, Callable[[], object]] = {
    "spin": lambda: sum(iter(lambda: 0, 1)),
    "sleep": lambda: time.sleep(1000),
    "eat": lambda: np.ones(1 << 26).sum(),
    "crash": os.abort,
    "raise": lambda: [][0],
    "be silent": lambda: sys.exit(1),
    "say it twice": lambda: (print("Error: a\nError: b", file=sys.stderr), sys.exit(1)),
    "take another code": lambda: sys.exit(7),
    "print colours": lambda: print("\x1b[31m"),
    "write outside": lambda: Path("../outside/new").write_text("x"),
    "write beside the input": lambda: Path("new").write_text("x"),
    "change a file outside": lambda: Path("../outside/secret").write_text("x"),
    "read outside": lambda: Path("../outside/secret").read_text(),
    "read the system's": lambda: Path("/etc/passwd").read_text(),
    "do nothing": lambda: None,
}


def main(arguments: Sequence[str], prog_name: str = "") -> None:
    """Do a misdeed by its name, or what a naive program would do."""
    _MISDEEDS.get(arguments[0], lambda: _naive(arguments))()
