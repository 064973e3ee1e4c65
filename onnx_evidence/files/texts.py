"""Text files that users give, or that others put beside a model: regular, bounded, and no deeper than can be read."""

import io
import json
import tomllib
from pathlib import Path
from typing import Any

from onnx_evidence.files.inside import open_regular

# Bytes: names of a million classes or pictures.
LARGEST = 1 << 26
_DEEP = "it is nested too deeply"
# Dots on a line of TOML: a key costs the square of its parts.
_DOTS = 2000


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with all ends of lines as newlines.

    Parameters
    ----------
    path : Path
        Links are followed. The mark that some editors and spreadsheets put in front (U+FEFF) is no part of the text.

    Returns
    -------
    str

    Raises
    ------
    OSError
        If it cannot be read, is no regular file, or has more than `LARGEST` bytes.
    UnicodeDecodeError
        If it is of another encoding.
    """
    with open_regular(path, LARGEST) as stream:
        return io.TextIOWrapper(io.BytesIO(stream.read(LARGEST)), encoding="utf-8-sig").read()


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Parameters
    ----------
    text : str
        Whole.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is no JSON, nested too deeply, or holds halves of characters, which cannot be written.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.casefold():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(_DEEP) from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character (a lone surrogate)") from error
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The keys and values of a TOML text.

    Parameters
    ----------
    text : str
        Whole.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is no TOML, or nested too deeply.
    """
    if any(line.count(".") > _DOTS for line in text.split("\n")):
        raise ValueError(_DEEP)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(_DEEP) from error
