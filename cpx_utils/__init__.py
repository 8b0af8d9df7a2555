"""The small, tested module behind the notebooks of cpx: one file a concern, imports run downwards only."""

__version__ = "0.1.0"
