"""Recognition: who it is, by comparing embeddings.

An embedder turns an aligned face into a point on the unit sphere; faces of one person lie close
together, and the cosine of two faces is the product of their rows.
"""

from __future__ import annotations

from facesieve.recognition.embedder import Embedder, TorchEmbedder

__all__ = ["Embedder", "TorchEmbedder"]
