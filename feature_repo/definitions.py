"""Feast definitions, made from what ``llmfeat.toml`` names: run ``feast apply`` here after encoding."""

from pathlib import Path

from llmfeat.store import repo_objects

# Feast registers what it finds as a name of this module: views of each generation of the table, so that applying a new
# model leaves the views of the rankers that still serve.
for _object in repo_objects(Path(__file__).resolve().parent):
    globals()[_object.name] = _object
