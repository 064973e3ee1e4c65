"""The list of pictures that could not be explained: a line each, with the reason, until a later run succeeds."""

import json
from pathlib import Path
from typing import Any

from onnx_evidence.batch.fingerprint import SCHEMA
from onnx_evidence.batch.index import Scratch, key
from onnx_evidence.batch.journal import Journal
from onnx_evidence.batch.plan import Item
from onnx_evidence.batch.receipt import Failure, unlike
from onnx_evidence.errors import StoreError

FAILURES = "failures.jsonl"


class Failures:
    """The failures of an output folder that this process holds; StoreError where the list cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self._stale = False  # whether the file holds more than there is to say
        self._path = folder / FAILURES
        self._scratch = Scratch(
            str(folder), "CREATE TABLE line (number INTEGER PRIMARY KEY, about BLOB UNIQUE, said TEXT)"
        )
        try:
            self._journal = Journal(self._path, self._see)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back what the lines are kept in."""
        self._scratch.close()

    def _see(self, entry: dict[str, Any]) -> None:
        if wrong := unlike(entry, Failure):
            raise StoreError(f"{self._path}: a line is no failure of this version ({wrong}): remove the file")
        self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        # Its line may be here twice, where a run ended before it could tidy up: the last one counts.
        about, said = _key(entry["image"], entry["targets"], entry["versus"]), json.dumps(entry)
        self._stale |= self._holds(about)
        self._scratch.do(
            "INSERT INTO line (about, said) VALUES (?, ?) ON CONFLICT (about) DO UPDATE SET said = ?",
            (about, said, said),
        )

    def _holds(self, about: bytes) -> bool:
        return bool(self._scratch.do("SELECT 1 FROM line WHERE about = ?", (about,)))

    def add(self, item: Item, kind: str, reason: str) -> None:
        """Add a picture that could not be explained, with the name of the error's type and the reason in one line."""
        entry = {
            "schema": SCHEMA,
            "image": item.name,
            "targets": list(item.targets),
            "versus": item.versus,
            "picture": item.sha256,
            "kind": kind,
            "reason": reason,
        }
        (written,) = self._journal.add([entry])
        self._note(written)

    def drop(self, item: Item) -> None:
        """Forget a picture that was explained after all; the file follows with `tidy`."""
        about = _key(item.name, item.targets, item.versus)
        if self._holds(about):
            self._stale = True
            self._scratch.do("DELETE FROM line WHERE about = ?", (about,))

    def tidy(self) -> None:
        """Have the file say what there is to say; it is removed where that is nothing."""
        if self._stale:
            lines = self._scratch.each("SELECT said FROM line ORDER BY number")
            self._journal.rewrite(json.loads(said) for (said,) in lines)
            self._stale = False

    def count(self) -> int:
        """How many there are."""
        found: int = self._scratch.do("SELECT COUNT(*) FROM line")[0][0]
        return found

    def take(self, entry: dict[str, Any]) -> None:
        """Add a line of another folder, whose form was checked, where there is none about the same."""
        if not self._holds(_key(entry["image"], entry["targets"], entry["versus"])):
            bare = {key: value for key, value in entry.items() if key not in ("previous", "seal")}
            self._note(self._journal.add([bare])[0])


def _key(image: str, targets: Any, versus: Any) -> bytes:
    return key(repr((image, list(targets), versus)))
