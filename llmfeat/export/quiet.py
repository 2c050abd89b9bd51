"""What exporters say to their developers, silenced."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from llmfeat._base.optional import import_optional

__all__ = ["quietly"]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence what exporters say to their developers: tracer warnings, progress of shards, advice on other options."""
    loggers = [logging.getLogger(name) for name in ("optimum", "transformers", "sentence_transformers", "onnxruntime")]
    # The parent of onnxruntime's scripts is the root logger, so they are named one by one.
    loggers += [logging.getLogger(name) for name in ("fusion_base", "onnx_model", "fusion_utils", "fusion_attention")]
    levels = [logger.level for logger in loggers]
    bars = import_optional("transformers.utils.logging", purpose="exporting a model")
    shown = bars.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The tracer warns of constants that depend on the configuration alone; the parity check is what decides.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()
