"""Work as a number: what counts how much, and how much a model may have."""

from dataclasses import dataclass, field

# The largest classifiers take 10^12 multiply-adds for a picture.
MAX_WORK = 10**13
# To run a node takes as long as so many multiply-adds, whatever it does: a million of them may be run.
NODE = 10**7
# What is written out, or followed while it is counted, takes longer: so many of those may be that are run.
_WRITTEN = 10
# Numbers made of constants are all held before there is a picture: 2.5 x 10^8 of them may be. Some files make all of
# their weights so.
_MADE = 40_000
# Those that shape inference reckons with are held one by one, at 140 bytes each: 10^6 of them may be. With a free batch
# it reckons with thousands of pictures.
_TOLD = 10**7
_TOLD_OF_BATCH = 10**6
# As many numbers as the file stores may be made of them, so many times over.
_COPIES = 16
# Of all work one layer may hold this part of numbers, or so many for each number of the picture, as `extent` has it.
_LAYER = 10**5
_LAYER_EACH = 256
# And all layers that are still to be read, at any time, so many times that.
_AT_ONCE = 10
# Stands for a free batch in inference, see `shapes`.
BATCH = 7920
_PLAIN = 10**6


@dataclass
class Work:
    """What a part of a model computes."""

    # Multiply-adds, numbers that are written, and `NODE` for each time that a node is run; turns are multiplied.
    run: int = 0
    made: int = 0  # numbers that are made of constants
    told: int = 0  # those of them that shape inference reckons with
    most: int = 0  # what the most costly node counts
    where: str = ""  # that node, in words

    def add(self, other: "Work", turns: int = 1) -> None:
        """Put the work of a body to this, done so many times."""
        self.run += other.run * turns
        self.made, self.told = self.made + other.made, self.told + other.told
        self.note(max(other.most, other.run * turns), other.where)

    def note(self, cost: int, where: str) -> None:
        """Remember a node where it is the most costly one."""
        if cost > self.most:
            self.most, self.where = cost, where


@dataclass
class Limits:
    """How much a model may compute."""

    work: int  # multiply-adds for one picture
    rows: int  # pictures that one run is of
    picture: int  # numbers that the inputs have
    only_told: bool = False  # only what inference reckons with counts
    stored: int = 0  # numbers that the file stores
    layer: int = field(init=False)  # numbers that one layer may hold
    at_once: int = field(init=False)  # numbers that all layers may hold that are still to be read
    nodes: int = field(init=False)  # that may be written out, or followed

    def __post_init__(self) -> None:
        each = _LAYER_EACH * self.picture * self.work // MAX_WORK
        self.layer = max(self.work // _LAYER * self.rows, each)
        self.at_once = _AT_ONCE * self.layer
        self.nodes = self.work // (_WRITTEN * NODE)

    def count(self, work: Work) -> int:
        """What the work of one run counts as a whole, in multiply-adds for one picture."""
        if self.only_told:
            return work.told * _TOLD_OF_BATCH
        made = max(0, work.made - _COPIES * self.stored)
        return work.run // self.rows + made * _MADE + work.told * _TOLD


def in_words(number: int) -> str:
    """A number of any size as people read it: '65536', '7.5e+08'."""
    if number < _PLAIN:
        return str(number)
    # Larger ones than floating point has are there, too.
    digits = str(number) if number < 10**300 else f"1e{number.bit_length() * 3 // 10}"
    return f"{float(digits):.3g}" if number < 10**300 else f"about {digits}"
