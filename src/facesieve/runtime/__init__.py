"""Runtimes: what purifies crops, behind one protocol. Crops are NumPy arrays; torch begins in ``runtime.torch``."""

from __future__ import annotations

from facesieve.runtime.card import PurifierCard
from facesieve.runtime.protocol import RUNTIMES, Runtime
from facesieve.runtime.trace import Trace, TraceStep

__all__ = ["RUNTIMES", "PurifierCard", "Runtime", "Trace", "TraceStep"]
