"""Run the recipes of docs/scale.md as they stand on the page, as far as that needs no cluster.

Each explains a few pictures in shards, one of which is stopped in the middle and started again; the merged folder is
held against one plain run. Kubernetes needs kubernetes-validate, and Ray needs ray, in an environment of its own.
"""

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import click
from parts.crash.runs import lines, results
from parts.small_model import write_model, write_pictures

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scale.md"
PICTURES = 40
# Shards on the page, and here.
THEIRS, SHARDS = 16, 4
# The first and the last release whose Jobs have all that the recipe asks for, as far as schemas are known.
RELEASES = ("1.29", "1.37")
# Seconds that a shard may take to its next line, or to its end.
PATIENCE = 240
_Process = subprocess.Popen[bytes]
_Start = Callable[[int], _Process]


def _block(section: str, page: str) -> str:
    """The first block of a section, with this many shards."""
    found = re.search(rf"^## {section}\n.*?^```\w+\n(.*?)^```$", page.partition("\n## How these")[0], re.M | re.S)
    if not found or str(THEIRS) not in found[1]:
        raise click.ClickException(f"{PAGE.name}: section {section!r} has no block of {THEIRS} shards: write one there")
    return re.sub(rf"\b{THEIRS}\b", str(SHARDS), found[1])


class _Place:
    """A folder that holds what the recipes call /data, and stands in for a cluster's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.bin = folder, folder / "OUT", folder / "bin"
        self.requeued = folder / "requeued"
        self.bin.mkdir()
        self.command("onnx-evidence", f'{shlex.quote(sys.executable)} -m onnx_evidence "$@"')
        self.command("srun", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
        self.command("scontrol", f'echo "$@" >>{shlex.quote(str(self.requeued))}')
        write_model(folder / "model.onnx")
        pictures = write_pictures(folder / "pictures", PICTURES)
        (folder / "list.txt").write_text("".join(f"{path}\n" for path in sorted(pictures.iterdir())))
        self.start(self.at_home("onnx-evidence explain /data/model.onnx /data/list.txt -o /data/plain -q")).wait()

    def command(self, name: str, text: str, folder: Path | None = None) -> None:
        """Write a command that the recipes call."""
        path = (folder or self.bin) / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def at_home(self, text: str) -> str:
        """A recipe whose /data is here."""
        return text.replace("/data", str(self.folder))

    def start(self, script: str, **variables: str) -> _Process:
        """A script in a shell of its own; one thread, since receipts say how many."""
        path = f"{self.bin}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ONNX_EVIDENCE_THREADS": "1", **variables}
        return subprocess.Popen(["bash", "-c", script], env=environment, cwd=self.folder, start_new_session=True)

    def stop_writer(self, shard: int, number: signal.Signals, process: _Process) -> None:
        """Send a signal to the process that writes a shard, once it has written some lines."""
        out, begin = self.out / f"shard-{shard}", time.monotonic()
        while lines(out) < 2 and process.poll() is None and time.monotonic() - begin < PATIENCE:
            time.sleep(0.01)
        try:
            os.kill(int((out / ".lock").read_text().split()[1]), number)
        except (OSError, IndexError) as error:
            raise click.ClickException(f"{out}: nobody writes there, so that nothing can be stopped") from error

    def compare(self, name: str, stopped: int) -> None:
        """The merged folder beside the plain one; gone afterwards."""
        (files, found, repeated), (wanted, expected, _) = results(self.out / "all"), results(self.folder / "plain")
        _expect(f"{name}: lines done twice", repeated, 0)
        _expect(f"{name}: pictures", len(found), PICTURES)
        _expect(f"{name}: maps and figures are those of a plain run", files == wanted, True)
        _expect(f"{name}: lines are those of a plain run", found == expected, True)
        self.out.rename(self.folder / name)
        click.echo(f"{name}: {PICTURES} pictures in {SHARDS} shards, one stopped after {stopped}: as a plain run")


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise click.ClickException(f"{what}: {found}, expected {wanted}")


def _shards(place: _Place, name: str, start: _Start, number: signal.Signals, code: int) -> None:
    """All shards by a script, the second of which is stopped and started again; then merged and compared."""
    process = start(2)
    place.stop_writer(2, number, process)
    _expect(f"{name}: exit code of what was stopped", process.wait(PATIENCE), code)
    stopped = lines(place.out / "shard-2")
    _expect(f"{name}: the stopped one was not done", stopped < PICTURES // SHARDS, True)
    for shard in range(1, SHARDS + 1):
        _expect(f"{name}: exit code of shard {shard}", start(shard).wait(PATIENCE), 0)
    merge = place.at_home("onnx-evidence merge /data/OUT/shard-* -o /data/OUT/all -q")
    _expect(f"{name}: exit code of merge", place.start(merge).wait(PATIENCE), 0)
    place.compare(name, stopped)


def _codes(place: _Place, name: str, script: str, **variables: str) -> None:
    """What a script ends with, by what the command ended with: 3 is success, all else stays what it is."""
    fakes = place.folder / "fakes"
    fakes.mkdir(exist_ok=True)
    for code in (0, 1, 2, 3, 130, 137, 143):
        place.command("onnx-evidence", f"exit {code}", fakes)
        found = place.start(f'PATH="{fakes}:$PATH"\n{script}', **variables).wait(PATIENCE)
        _expect(f"{name}: exit code of the script where the command ends with {code}", found, 0 if code == 3 else code)


def _slurm(place: _Place, page: str) -> None:
    """The batch script, in bash, with srun and scontrol that only note what they are asked."""
    script = place.at_home(_block("SLURM", page))
    # As in the last task of an array, which has the number of the whole array.
    also = {"SLURM_CPUS_PER_TASK": "1", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}

    def start(shard: int) -> _Process:
        return place.start(script, SLURM_ARRAY_TASK_ID=str(shard), **also)

    _codes(place, "slurm", script, SLURM_ARRAY_TASK_ID="4", **also)
    _shards(place, "slurm", start, signal.SIGTERM, 130)
    _expect("slurm: put back into the queue", place.requeued.read_text(), "requeue 7_4\n" * 2 + "requeue 7_2\n")


def _kubernetes(place: _Place, page: str) -> None:
    """The Job's schema, and its container's command line with the index set."""
    job = importlib.import_module("yaml").safe_load(_block("Kubernetes", page))
    validate = importlib.import_module("kubernetes_validate").validate
    for release in RELEASES:
        validate(job, release, strict=True)
    spec = job["spec"]
    container = spec["template"]["spec"]["containers"][0]
    _expect("kubernetes: shards", spec["completions"], SHARDS)
    fatal = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    _expect("kubernetes: exit codes that fail the Job", fatal, [[1, 2]])
    script = f"exec {shlex.join([*container['command'], *map(place.at_home, container['args'])])}"

    def start(shard: int) -> _Process:
        return place.start(script, JOB_COMPLETION_INDEX=str(shard - 1))

    _codes(place, "kubernetes", script, JOB_COMPLETION_INDEX="0")
    _shards(place, "kubernetes", start, signal.SIGKILL, 137)


def _ray(place: _Place, page: str) -> None:
    """The block as a program, on two processors of this machine, with one of Ray's workers killed."""
    program = place.folder / "program.py"
    program.write_text(place.at_home(re.sub(r"\b8\b", "1", _block("Ray", page))))
    process = place.start(f"exec {shlex.join([sys.executable, str(program)])} >ray.txt 2>&1")
    place.stop_writer(2, signal.SIGKILL, process)
    stopped = lines(place.out / "shard-2")
    code = process.wait(PATIENCE)
    if code:
        click.echo((place.folder / "ray.txt").read_text(), err=True)
    _expect("ray: exit code", code, 0)
    place.compare("ray", stopped)


@click.command()
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, help="Default: docs/scale.md.")
def main(page: Path) -> None:
    """Run the recipes of docs/scale.md and compare their results with a plain run's."""
    text = page.read_text(encoding="utf-8")
    checks: Sequence[tuple[Callable[[_Place, str], None], str | None]] = (
        (_slurm, None),
        (_kubernetes, "kubernetes_validate"),
        (_ray, "ray"),
    )
    with tempfile.TemporaryDirectory() as name:
        place = _Place(Path(name).resolve())
        for check, needed in checks:
            if needed and not find_spec(needed):
                click.echo(f"{check.__name__[1:]}: not run: {needed} is not installed")
            else:
                check(place, text)


if __name__ == "__main__":
    main()
