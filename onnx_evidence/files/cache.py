"""What was measured of a model, kept in the user's cache folder: it need not be measured again.

It depends on the model, the machine and the versions of what measures alone. Every file holds one answer and says what
it is the answer to; whatever is not whole, or answers something else, is measured again and written over. Files are
renamed into their place, so two processes may write at once. Nothing here fails: what cannot be kept is not kept.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from onnx_evidence.errors import StoreError
from onnx_evidence.files.inside import open_regular
from onnx_evidence.files.store import json_line, write_bytes
from onnx_evidence.files.texts import parse_json

# Bytes of the largest answer, far above any that is kept.
_LARGEST = 1 << 20


class Cache:
    """Answers to questions about one thing.

    Parameters
    ----------
    of : mapping or None
        The thing and all that its answers depend on, in plain values; None where nothing is to be kept.
    """

    def __init__(self, of: Mapping[str, Any] | None) -> None:
        self._of = of

    def get(self, question: Mapping[str, Any]) -> Any:
        """The answer, in plain values, to a question in plain values; None where none is kept."""
        if self._of is None:
            return None
        asked = self._asked(question)
        try:
            with open_regular(_place(asked)) as stream:
                kept = parse_json(stream.read(_LARGEST).decode())
        except (OSError, ValueError):
            return None
        whole = isinstance(kept, dict) and set(kept) == {"to", "answer"}
        return kept["answer"] if whole and kept["to"] == asked else None

    def put(self, question: Mapping[str, Any], answer: Any) -> None:
        """Keep the answer to a question."""
        if self._of is not None:
            asked = self._asked(question)
            with suppress(StoreError, OSError):
                write_bytes(_place(asked), json_line({"to": asked, "answer": answer}).encode())

    def _asked(self, question: Mapping[str, Any]) -> Any:
        """All that the answer depends on, as JSON has it."""
        return json.loads(json_line({"of": self._of, "question": question}))


NOTHING_KEPT = Cache(None)


def _place(asked: Any) -> Path:
    """Where an answer is kept; OSError where there is no such place."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    folder = user_cache_path("onnx-evidence", appauthor=False)
    if not folder.is_absolute():  # whoever has no home has no cache
        raise OSError(errno.ENOENT, "there is no folder for caches")
    return folder / f"{digest}.json"
