"""A SimCLR laboratory: pre-train without labels, swap one component at a time, judge the representation."""

from simclr.load import load

__all__ = ["load"]
