"""A comparison as one HTML page that needs nothing else: inline SVG, inline style, no script."""

from pointsman_calib.report.page import render

__all__ = ["render"]
