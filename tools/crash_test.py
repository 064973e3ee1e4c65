"""Disturb `explain`, go on each time, and hold the end against a run that nobody disturbed.

Four disturbances: `kills` and `signals` at random moments, for one process and for two workers; a `full-disk`, again
and again at another moment; and a `cluster` whose workers are killed. Each prints what was survived, pictures lost and
pictures done twice; exit code 1 if the end is another.
"""

import random
import time

import click
from parts.crash.cluster import cluster
from parts.crash.disk import full_disk
from parts.crash.runs import Bench, bench, compare, lines, listed, rewritten
from parts.crash.signals import signals


def _disturb(here: Bench, workers: int, kills: int, rng: random.Random) -> bool:
    """Kill and go on, then compare; False if anything differs."""
    calm, out = here.place / f"calm{workers}", here.place / f"out{workers}"
    options = ("--workers", workers)
    start = time.monotonic()
    here.start(calm, *options).finish()
    undisturbed = time.monotonic() - start
    survived = early = twice = torn = 0
    before: dict[str, int] = {}
    while survived < kills:
        left = here.pictures - lines(out)
        # So many new lines that the pictures last for all kills; every fifth kill comes before the first new one.
        steps = rng.randint(0, max(0, round(2 * left / (kills - survived)))) if survived % 5 else 0
        goal = lines(out) + min(steps, left - 1)
        run = here.start(out, *options)
        if steps:
            run.wait_for(out, goal)
        time.sleep(rng.uniform(0, 0.6 if steps else 4))
        new = lines(out)
        if not run.kill():
            continue  # it was done
        survived += 1
        early += new < goal or not steps
        torn += any(out.rglob("*.partial"))
        twice += rewritten(before, out)
        before = listed(out)
    here.start(out, *options).finish()
    ending = compare(out, calm, twice + rewritten(before, out))
    click.echo(
        f"--workers {workers}: {survived} kills survived ({early} before a new line, {torn} with a file half-written); "
        f"{here.pictures} pictures, {ending}; {undisturbed:.0f} s undisturbed, "
        f"{time.monotonic() - start - undisturbed:.0f} s disturbed"
    )
    return ending.fine


@click.group()
def main() -> None:
    """Disturb explain and compare the end with an undisturbed run."""


@main.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--pictures", default=200, show_default=True)
@click.option("--workers", multiple=True, type=int, default=[1, 2], show_default=True)
@click.option("--seed", default=0, show_default=True)
def kills(kills: int, pictures: int, workers: tuple[int, ...], seed: int) -> None:
    """Kill it at random moments."""
    with bench(pictures) as here:
        fine = [_disturb(here, count, kills, random.Random(seed)) for count in workers]
    if not all(fine):
        raise click.exceptions.Exit(1)


main.add_command(full_disk)
main.add_command(cluster)
main.add_command(signals)

if __name__ == "__main__":
    main()
