"""Runtimes: what purifies crops, behind one protocol. Crops are NumPy arrays; torch begins in ``runtime.torch``."""

from __future__ import annotations

from facesieve.runtime.card import PurifierCard
from facesieve.runtime.protocol import Runtime
from facesieve.runtime.trace import Trace, TraceStep

__all__ = ["PurifierCard", "Runtime", "Trace", "TraceStep"]
