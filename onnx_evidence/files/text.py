"""Names from models, labels and files as text that can be shown: nothing in them is obeyed."""

# What spreadsheets take for the start of a formula, and the wide forms that they fold to it.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(text: str) -> str:
    r"""Text without anything that a terminal would obey: control characters, directions and the like are spelled out.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        One line; letters and marks of all scripts are kept, others become ``\n``, ``\x1b``, ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def several(count: int, what: str) -> str:
    """A number of things.

    Parameters
    ----------
    count : int
    what : str
        One of them, such as 'picture'.

    Returns
    -------
    str
        '1 picture', '2 pictures'.
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def csv_text(text: str) -> str:
    """Text for a cell of a table: `visible`, and with an apostrophe where a spreadsheet would take it for a formula.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    shown = visible(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def shown(*lines: str) -> str:
    """Lines for a terminal, which obeys nothing in them.

    Parameters
    ----------
    *lines : str

    Returns
    -------
    str
        Joined by line ends.
    """
    return "\n".join(visible(line) for line in lines)


def fit(text: str, width: int = 24) -> str:
    """Text of one width, for a column.

    Parameters
    ----------
    text : str
    width : int
        Characters.

    Returns
    -------
    str
        `visible`, filled up with spaces or cut off.
    """
    line = visible(text)
    return f"{line if len(line) <= width else line[: width - 1] + '…':{width}}"
