"""The gradient family: maps from one gradient of a score at a cut, each a line of arithmetic.

All take features h (C, A, B) and the gradient g of the score by them, and give one value per cell. They are what
integrated evidence becomes when the path is shortened to its end (`layer_times_gradient`, first order) and then
simplified further (docs/links.md).
"""

import numpy as np

from onnx_evidence.types import Features, FloatArray


def largest_slope(gradient: Features) -> FloatArray:
    """Largest magnitude over channels: the saliency map of Simonyan et al. 2013, section 3.1. Its sign is lost.

    Parameters
    ----------
    gradient : ndarray of float32, shape (C, A, B)
        Of the score by the features.

    Returns
    -------
    ndarray of float64, shape (A, B)
        Score per unit of the features; at least 0.
    """
    slopes: FloatArray = np.abs(gradient.astype(np.float64)).max(axis=0)
    return slopes


def layer_times_gradient(features: Features, gradient: Features) -> FloatArray:
    """``sum_k h_k g_k``: gradient x input at the input, HiResCAM (Draelos & Carin 2020, eq. 2) at a cut inside.

    Parameters
    ----------
    features, gradient : ndarray of float32, shape (C, A, B)
        The features, or what they differ by from what is expected (first-order evidence), and the gradient.

    Returns
    -------
    ndarray of float64, shape (A, B)
        In the unit of the score.
    """
    cells: FloatArray = np.einsum("kij,kij->ij", features.astype(np.float64), gradient.astype(np.float64))
    return cells


def grad_cam(features: Features, gradient: Features) -> FloatArray:
    """``sum_k h_k mean_u g_ku``: Grad-CAM (Selvaraju et al. 2017, eq. 1 and 2) before its ReLU.

    Parameters
    ----------
    features, gradient : ndarray of float32, shape (C, A, B)

    Returns
    -------
    ndarray of float64, shape (A, B)
        In the unit of the score; signed.
    """
    weights = gradient.mean(axis=(1, 2), dtype=np.float64)
    cells: FloatArray = np.einsum("kij,k->ij", features.astype(np.float64), weights)
    return cells


def grad_cam_plus_plus(features: Features, gradient: Features) -> FloatArray:
    """Grad-CAM++ (Chattopadhay et al. 2018, eq. 10 and 19) before its ReLU.

    ``w_k = sum_u a_ku max(g_ku, 0)`` with ``a = g^2 / (2 g^2 + g^3 sum_u h)``, as for a score under an exponential.

    Parameters
    ----------
    features, gradient : ndarray of float32, shape (C, A, B)

    Returns
    -------
    ndarray of float64, shape (A, B)
        No unit: the weights are normalised by the gradient itself.
    """
    h, g = features.astype(np.float64), gradient.astype(np.float64)
    bottom = 2 * g**2 + g**3 * h.sum(axis=(1, 2), keepdims=True)
    shares = np.divide(g**2, bottom, out=np.zeros_like(g), where=(g != 0) & (bottom != 0))
    weights = (shares * np.maximum(g, 0)).sum(axis=(1, 2))
    cells: FloatArray = np.einsum("kij,k->ij", h, weights)
    return cells


def layer_cam(features: Features, gradient: Features) -> FloatArray:
    """``sum_k h_k max(g_k, 0)``: Layer-CAM (Jiang et al. 2021, eq. 5 and 6) before its ReLU.

    Parameters
    ----------
    features, gradient : ndarray of float32, shape (C, A, B)

    Returns
    -------
    ndarray of float64, shape (A, B)
        In the unit of the score.
    """
    return layer_times_gradient(features, np.maximum(gradient, 0))
