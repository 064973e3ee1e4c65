"""What is asked of one picture: a class, or one class rather than another, as a user names them."""

import re
from collections.abc import Iterable, Sequence

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError, TargetError
from onnx_evidence.methods.engine import Question

# Stands for the class that the model itself gives.
TOP = "top1"
_RANK = re.compile(r"top[- ]?\d+", re.IGNORECASE)


def listed(targets: Iterable[str | int]) -> list[str | int]:
    """Classes as a list, whatever they come as; an iterator is read once.

    Parameters
    ----------
    targets : iterable of (str or int)
        Class numbers or names, or 'top1'.

    Returns
    -------
    list of (str or int)

    Raises
    ------
    SettingError
        If it is a single class, or there is none.
    """
    if isinstance(targets, str) or not isinstance(targets, Iterable):
        raise SettingError(f"targets {targets!r} are no list of classes: give [{targets!r}]")
    if not (found := list(targets)):
        raise SettingError(f"no class to explain: name at least one, such as {TOP!r}")
    return found


def check_targets(deployed: DeployedModel, targets: Sequence[str | int], versus: str | int | None = None) -> None:
    """Refuse classes that no picture can be explained for.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    targets : sequence of (str or int)
        Class numbers or names; 'top1' is passed over.
    versus : str or int, optional
        The class to hold them against.

    Raises
    ------
    TargetError
        If a class is unknown or its name ambiguous.
    SettingError
        If a class would be held against itself.
    """
    named = [_named(deployed, name) for name in targets if name != TOP]
    if versus is not None and (rival := deployed.find_class(versus)) in named:
        raise SettingError(f"class {deployed.label(rival)!r} cannot be held against itself: take another --versus")


def _named(deployed: DeployedModel, name: str | int) -> int:
    try:
        return deployed.find_class(name)
    except TargetError as error:
        if not _RANK.fullmatch(str(name)):
            raise
        raise TargetError(
            f"class {name!r}: of ranks only {TOP!r} is known, the class that the model gives; give others by number or "
            "name (a manifest lists the five most probable under 'top')"
        ) from error


def ask(
    deployed: DeployedModel, picture: str, top: int, targets: Sequence[str | int], versus: str | int | None = None
) -> list[Question]:
    """The questions about one picture, each once.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    picture : str
        Its name, for messages.
    top : int
        The class that the model gives.
    targets : sequence of (str or int)
        'top1', class numbers or names.
    versus : str or int, optional
        The class to hold them against.

    Returns
    -------
    list of Question
        In the order given.

    Raises
    ------
    TargetError
        If a class is unknown, or the model's own answer would be held against itself.
    """
    chosen = [top if target == TOP else deployed.find_class(target) for target in targets]
    rival = None if versus is None else deployed.find_class(versus)
    if rival in chosen:
        raise TargetError(
            f"{picture}: the model's own answer is {deployed.label(top)!r}, the very class to hold it "
            "against: take another --versus, or name the target"
        )
    return [Question(target, rival) for target in dict.fromkeys(chosen)]
