"""Feast definitions, made from the vector table in ``data/item_vectors``: run ``feast apply`` here after encoding."""

from pathlib import Path

from llmfeat.store import feature_views

TABLE = Path(__file__).resolve().parent / "data" / "item_vectors"

# Feast registers what it finds as a name of this module: one view per generation of the table, so that applying a new
# model leaves the views of the rankers that still serve.
for _object in feature_views(TABLE):
    globals()[_object.name] = _object
