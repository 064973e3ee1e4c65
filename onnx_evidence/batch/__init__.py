"""Folders of pictures: runs that lose nothing, and receipts that can be checked.

A run is planned (`plan`), its folder is held by one process (`folder`) that alone writes the journal (`journal`,
`manifest`); pictures are explained one by one (`work`), here or in other processes (`pool`).
"""

# Of manifest lines; another one whenever their keys or their meaning change.
SCHEMA = 3
