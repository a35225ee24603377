"""The colors of all pictures that m3 draws, RGB 0 … 255."""

from __future__ import annotations

LEFT, RIGHT, MIDDLE = (255, 138, 31), (38, 190, 255), (250, 247, 240)
"""Joints and limbs of the left side, of the right side, and those that belong to neither."""

OUTLINE = (20, 22, 30, 190)
"""RGBA of the edge around joints and limbs."""

PAPER, INK, FAINT = (252, 252, 250), (35, 38, 46), (120, 124, 134)
"""Background of a sheet, its text, and its secondary text."""

BLANK = (58, 62, 72)
"""A cell without a picture, and the hidden part of a picture."""

NO_FRAME = (236, 236, 233)
"""A cell whose frame does not exist."""
