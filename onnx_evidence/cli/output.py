"""Reports of commands, for programs."""

from typing import Any

import numpy as np

from onnx_evidence.evaluation import Links
from onnx_evidence.files import finite_json


def as_json(value: Any) -> str:
    """Indented JSON.

    Parameters
    ----------
    value : object
        Plain values, all numbers finite.

    Returns
    -------
    str

    Raises
    ------
    ModelError
        Naming a number that is not finite.
    """
    return finite_json(value, indent=2)


def links_report(links: Links, cut: str, question: str) -> dict[str, Any]:
    """The walk of ``links`` as plain values.

    Parameters
    ----------
    links : Links
        From `evaluation.walk`.
    cut, question : str
        Where, and what was asked.

    Returns
    -------
    dict
        Plain values, ready for JSON. ``steps`` have ``name``, ``change``, ``correlation`` (null for the first).
    """
    steps = [
        {
            "name": link.name,
            "change": link.change,
            "correlation": None if np.isnan(link.correlation) else round(link.correlation, 4),
        }
        for link in links.steps
    ]
    return {"question": question, "cut": cut, "proof_bits": links.proof, "steps": steps}
