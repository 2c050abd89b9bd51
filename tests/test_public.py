from __future__ import annotations

import subprocess
import sys
import time

import pytest

import llmfeat
from llmfeat import errors


def test_public_names_are_these_and_load():
    assert llmfeat.__all__ == [
        "ActivityFeatures",
        "EventPusher",
        "FeastFeatures",
        "FeastHistories",
        "FeastVectors",
        "HistoryFeatures",
        "InteractionLog",
        "ItemTemplate",
        "LLMScoreFeatures",
        "LLMScorer",
        "LearnedSimilarity",
        "ModelArtifact",
        "OnlineRanker",
        "PastFittedFeatures",
        "PreferencePrompt",
        "RankerBundle",
        "RankingPipeline",
        "SemanticIdFeatures",
        "SemanticIds",
        "TextEmbedder",
        "TextEncoder",
        "TwoTower",
        "UserTextFeatures",
        "VectorTable",
        "__version__",
        "encode_table",
        "export_model",
        "group_sizes",
        "materialize",
        "write_table",
    ]
    for name in llmfeat.__all__:
        assert getattr(llmfeat, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        llmfeat.Nonsense  # noqa: B018


def test_import_is_light_and_fast():
    code = (
        "import sys, llmfeat; print([m for m in sys.modules if m in ('numpy', 'pyarrow', 'sklearn', 'torch', 'feast')])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 2  # 0.3 s by design; the rest is a busy machine's


def test_encoding_loads_no_torch():
    code = (
        "import sys, llmfeat.encode, llmfeat.features; "
        "print([name for name in ('torch', 'transformers', 'feast', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_is_in_the_tree_that_the_module_draws():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.LLMFeatError | UserWarning)
        if kind is not errors.LLMFeatWarning:
            assert name in errors.__doc__


def test_errors_can_be_caught_as_builtins():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ArtifactNotFoundError, FileNotFoundError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.DownloadError, OSError)
    assert issubclass(errors.StoreError, RuntimeError)
    assert issubclass(errors.BundleError, ValueError)
