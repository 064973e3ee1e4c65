"""The errors that a user of the package can cause, as one small tree.

::

    EvidenceError
    |-- ModelError       the .onnx file cannot be read, or is no image classifier that can be explained
    |-- CutError         the named layer is not a cut
    |-- GradientError    an operator of the model has no backward rule
    |-- DataError        a picture, label file, preprocessing file or background cannot be used
    |-- TargetError      the named class is unknown or ambiguous
    |-- SettingError     settings that contradict each other or the model
    |-- DeviceError      the device that was asked for does not work
    `-- StoreError       the results cannot be written

A message is one line: the value, the rule that it breaks, the remedy. Only the command line turns these
into exit codes.

Imported by: batch, cli, counting, cuts, deployed, evaluation, evidence, explainer, export, files, graphs, intake,
methods, pictures, preprocessing, sessions, vjp.
"""

import errno


class EvidenceError(Exception):
    """Root of the tree; catch this to catch every error that bad input can cause."""


class ModelError(EvidenceError):
    """The file is not an image classifier in ONNX that can be explained."""


class ChangedError(ModelError):
    """The model's files are not what they were when it was opened: no picture can be explained any more."""


class CutError(EvidenceError):
    """The named tensor does not separate the input from the output."""


class GradientError(EvidenceError):
    """The backward graph cannot be built: an operator has no rule, or not in the form that it has here."""


class DataError(EvidenceError):
    """A picture, label file, preprocessing file or background cannot be used."""


class TargetError(EvidenceError):
    """The named class is unknown, or two classes share its name."""


class SettingError(EvidenceError):
    """A setting is out of range, or contradicts another one or the model."""


class DeviceError(EvidenceError):
    """The device that was asked for does not work here."""


class StoreError(EvidenceError):
    """A result cannot be written."""


def naming(name: str, error: BaseException) -> str:
    """An error's message, with the name of what it is about in front where it does not say it.

    Parameters
    ----------
    name : str
        Of a picture, as users named it.
    error : BaseException
        What was raised.

    Returns
    -------
    str
    """
    text = str(error)
    return text if name in text else f"{name}: {text}"


def short_of_handles(error: BaseException | None) -> bool:
    """Whether an error is, or came from, the system's word that too many files are open: no file's own fault.

    Parameters
    ----------
    error : BaseException or None
        What was raised.

    Returns
    -------
    bool
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False


def one_line(error: BaseException) -> str:
    """The first line of a library's message, for quoting inside ours.

    Parameters
    ----------
    error : BaseException
        What the library raised.

    Returns
    -------
    str
        The name of the error's type where the message is empty.
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
