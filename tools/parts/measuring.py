"""Times, memory and growth, for tools that measure: ratios with their spread, as bare seconds say little elsewhere."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def most_held() -> int:
    """Bytes that this process held at most; what `getrusage` says begins with what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def spread(values: Sequence[float]) -> str:
    """The median, and from what to what; three digits of each."""
    middle, least, most = (short(each) for each in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def short(value: float) -> str:
    """Three digits of a number, and thousands apart."""
    digits = 0 if not value else 2 - int(np.floor(np.log10(abs(value))))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of the logarithm of a cost against that of a size, by least squares: 1 where twice takes twice."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(*rows: Sequence[str]) -> str:
    """Rows in Markdown, the first of which is the head."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join((head, "|---" * len(rows[0]) + "|", *others))
