"""Colour science to judge the palette by, written from the definitions, not from the palette's own code."""

from __future__ import annotations

import numpy as np

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
DEFICIENCIES = {
    "protan": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deutan": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritan": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
_CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_OKLAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


def linear(colour: str) -> np.ndarray:
    """Linear RGB of #RRGGBB, (3,)."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """WCAG relative luminance."""
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio."""
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def oklab(colour: str, deficiency: str | None = None) -> np.ndarray:
    """OKLab coordinates, (3,), as seen with a colour vision deficiency if one is named."""
    rgb = linear(colour)
    if deficiency:
        rgb = np.clip(DEFICIENCIES[deficiency] @ rgb, 0, 1)
    return _OKLAB @ np.cbrt(_CONES @ rgb)


def difference(first: str, second: str, deficiency: str | None = None) -> float:
    """Perceived distance in OKLab; about 0.02 is just noticeable side by side."""
    return float(np.linalg.norm(oklab(first, deficiency) - oklab(second, deficiency)))
