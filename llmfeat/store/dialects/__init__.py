"""How an online store is spoken to: Feast's own interface for any store, and the bytes of SQLite and Redis directly."""

from llmfeat.store.dialects.base import Dialect, Held
from llmfeat.store.dialects.choose import open_dialect

__all__ = ["Dialect", "Held", "open_dialect"]
