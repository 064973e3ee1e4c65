"""The method that settings name, and settings that contradict it or each other, whatever the model."""

from collections.abc import Mapping
from typing import Any

from onnx_evidence.cuts import AUTO, DEEP
from onnx_evidence.errors import SettingError
from onnx_evidence.methods.method import Method
from onnx_evidence.methods.settings import DEFAULT_METHOD, OPTIONS, PROJECTIONS, Settings
from onnx_evidence.methods.table import METHODS


def method_of(settings: Settings) -> Method:
    """The method's row of the table; of the default one while it is 'auto'. SettingError where there is none."""
    name = DEFAULT_METHOD if settings.method == AUTO else settings.method
    if name not in METHODS:
        raise SettingError(f"method {name!r} is unknown: take one of {', '.join((AUTO, *METHODS))}")
    return METHODS[name]


def _uses(method: str) -> frozenset[str]:
    """What a method of a receipt has a use for, which may be of a version that had others."""
    return METHODS[method].uses if method in METHODS else frozenset()


def settings_of_receipt(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a receipt stands for, which may be of a version that had others.

    Parameters
    ----------
    method : str
        By name.
    given : mapping
        As the receipt has them.

    Returns
    -------
    dict
        With what held before there was a choice, and without what the method has no use for, as a former default.
    """
    uses = _uses(method)
    before = {name: option.before for name, option in OPTIONS.items() if option.before and name in uses}
    former = {name for name, option in OPTIONS.items() if option.unused is not None and name not in uses}
    return {
        **before,
        **{name: value for name, value in given.items() if name not in former or value != OPTIONS[name].unused},
    }


def known_by(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that finished work is known by, the same whichever version it is of.

    Parameters
    ----------
    method : str
        By name.
    settings : mapping
        All of them, or those of a receipt.

    Returns
    -------
    dict
    """
    uses = _uses(method)
    known = {name: value for name, value in settings.items() if name not in OPTIONS or OPTIONS[name].decides}
    for name, option in OPTIONS.items():
        if option.before and (name not in uses or known.get(name) == option.before):
            known.pop(name, None)
        if option.unused is not None and name not in uses and known.get(name) == getattr(Settings, name):
            known[name] = option.unused
    return known


def check_settings(settings: Settings) -> None:
    """Refuse settings that are out of range, contradict each other, or that the method would pass over in silence.

    Parameters
    ----------
    settings : Settings
        With its quality settled.

    Raises
    ------
    SettingError
        With the value, the rule and the remedy.
    """
    method = method_of(settings)
    _check_place(method, settings)
    if method.needs_file and method.background_path(settings) is None:
        raise SettingError(
            f"method {method.name!r} draws pixels from a fitted background: fit one with 'onnx-evidence background "
            "MODEL FOLDER -o FILE.npz --layer INPUT' (the model's input) and pass --background FILE.npz"
        )
    settings.check_values()
    _check_uses(method, settings)
    if settings.statistic != Settings.statistic and method.background_path(settings) is None:
        raise SettingError(
            f"statistic {settings.statistic!r} is one of a fitted background: give --background FILE.npz"
        )
    method.refuse(settings)


def _check_place(method: Method, settings: Settings) -> None:
    if method.at == "input" and settings.layers != (AUTO,):
        raise SettingError(f"method {method.name!r} works on pixels, so it takes no layer: drop --layer")
    if method.at == "last" and len(settings.layers) > 1:
        raise SettingError(f"method {method.name!r} takes one layer, not {len(settings.layers)}")
    if method.at == "last" and settings.layers == (DEEP,):
        raise SettingError(f"method {method.name!r} takes one layer, and {DEEP!r} stands for two: name one of them")


def _check_uses(method: Method, settings: Settings) -> None:
    for name, option in OPTIONS.items():
        set_by_user = getattr(settings, name) != getattr(Settings, name)
        if set_by_user and not option.for_all and name not in method.uses:
            others = ", ".join(other for other, each in METHODS.items() if name in each.uses)
            raise SettingError(
                f"method {method.name!r} has no use for --{option.flag}: drop it, or take one of the methods {others}"
            )
    if settings.project != PROJECTIONS[0] and method.at_input:
        raise SettingError(f"method {method.name!r} works on pixels already: drop --project {settings.project}")
