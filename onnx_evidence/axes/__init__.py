"""What every operator does to the meaning of axes: one rule per operator, from layouts that it reads to the one made.

A rule answers None where rows and columns cannot be followed; a wrong answer is worse than none.

* `reading`: what a rule sees of a node; `table`: the rule of every operator.
* `meeting`: values that meet value by value; `mixing`: sums over neighbours, channels and tokens; `moving`: reshapes,
  slices, concatenations.
* `sweep`: all of a graph.

Imported by: cuts.
"""

from onnx_evidence.axes.sweep import find_layouts, find_unread

__all__ = ["find_layouts", "find_unread"]
