"""What runs a graph, and how one is chosen."""

from llmfeat.encode.backends.base import Backend
from llmfeat.encode.backends.choose import AGREE, BACKENDS, open_backend, unavailable

__all__ = ["AGREE", "BACKENDS", "Backend", "open_backend", "unavailable"]
