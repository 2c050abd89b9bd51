"""Every error that llmfeat raises, as one tree.

* LLMFeatError
  x InputError (ValueError)            the caller's data or parameters
    + MissingColumnError
    + EmptyInputError
    + NothingToLearnError
    + DuplicateIdError
    + TimestampError
    + TemplateError
  x ArtifactError
    + ArtifactNotFoundError (FileNotFoundError)
    + ArtifactCorruptError (ValueError)
    + ArtifactPathError (ValueError)
    + ArtifactSchemaError (ValueError)
  x ExportError (RuntimeError)
    + ParityError
  x BackendError (RuntimeError)
  x CacheError (OSError)
  x TableError
    + TableNotFoundError (FileNotFoundError)
    + TableCorruptError (ValueError)
    + TableFingerprintError (ValueError)
    + TableWriteError (OSError)
  x StoreError (RuntimeError)
    + StoreConfigError
    + StoreWriteError
    + StoreMissingError
  x BundleError (ValueError)
  x MissingDependencyError (ImportError)
  x DownloadError (OSError)

A message has three parts: what arrived, what was expected, what to do next. Texts of items and of users may be
personal data, so no message quotes one; ids and column names may be quoted.
"""

from __future__ import annotations

__all__ = [
    "ArtifactCorruptError",
    "ArtifactError",
    "ArtifactNotFoundError",
    "ArtifactPathError",
    "ArtifactSchemaError",
    "BackendError",
    "BundleError",
    "CacheError",
    "DownloadError",
    "DuplicateIdError",
    "EmptyInputError",
    "ExportError",
    "InputError",
    "LLMFeatError",
    "LLMFeatWarning",
    "MissingColumnError",
    "MissingDependencyError",
    "NothingToLearnError",
    "ParityError",
    "StoreConfigError",
    "StoreError",
    "StoreMissingError",
    "StoreWriteError",
    "TableCorruptError",
    "TableError",
    "TableFingerprintError",
    "TableNotFoundError",
    "TableWriteError",
    "TemplateError",
    "TimestampError",
]


class LLMFeatError(Exception):
    """The root of the tree: ``except LLMFeatError`` catches everything below."""


class LLMFeatWarning(UserWarning):
    """Something was handled in a stated way that the caller may want to know of."""


class InputError(LLMFeatError, ValueError):
    """Data or a parameter that cannot be worked with."""


class MissingColumnError(InputError):
    """A data frame lacks a column that is needed."""


class EmptyInputError(InputError):
    """A log, a catalogue or a list without a single row."""


class NothingToLearnError(InputError):
    """Data that holds none of what is to be learned from it."""


class DuplicateIdError(InputError):
    """An id stands for more than one row where it must name exactly one."""


class TimestampError(InputError):
    """Timestamps that are null, of a wrong type, or of no unit that can be told."""


class TemplateError(InputError):
    """A text template that cannot be parsed, or that its rows cannot fill."""


class ArtifactError(LLMFeatError):
    """An exported model folder that cannot be used."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """There is no artifact, or one of its files is gone."""


class ArtifactCorruptError(ArtifactError, ValueError):
    """A file of the artifact is not the one that was exported."""


class ArtifactPathError(ArtifactError, ValueError):
    """``artifact.json`` names a file outside of its folder."""


class ArtifactSchemaError(ArtifactError, ValueError):
    """``artifact.json`` is of a schema that this version does not read."""


class ExportError(LLMFeatError, RuntimeError):
    """A model could not be turned into an artifact."""


class ParityError(ExportError):
    """The exported graph does not give the vectors of the model it came from."""


class BackendError(LLMFeatError, RuntimeError):
    """What is to run a model is not installed, or does not work here."""


class CacheError(LLMFeatError, OSError):
    """A cache of vectors that cannot be used."""


class TableError(LLMFeatError):
    """A vector table that cannot be used."""


class TableNotFoundError(TableError, FileNotFoundError):
    """There is no vector table at that path."""


class TableCorruptError(TableError, ValueError):
    """A part of the table is not the one that its manifest names."""


class TableFingerprintError(TableError, ValueError):
    """Vectors of another model, backend or template than the ones that are expected."""


class TableWriteError(TableError, OSError):
    """A table that cannot be written: another process writes to it, the folder is read-only, or the disk is full."""


class StoreError(LLMFeatError, RuntimeError):
    """The feature store refused, or lost something."""


class StoreConfigError(StoreError):
    """A ``feature_store.yaml`` with which Feast would lose or mix rows."""


class StoreWriteError(StoreError):
    """What was read back from the online store is not what was written."""


class StoreMissingError(StoreError):
    """The store lacks so much of what was asked for that features of it would be noise."""


class BundleError(LLMFeatError, ValueError):
    """A trained ranker that cannot be bundled, or a bundle that cannot be served here."""


class MissingDependencyError(LLMFeatError, ImportError):
    """A package of an optional extra is not installed."""


class DownloadError(LLMFeatError, OSError):
    """A file could not be fetched, or is not the one that was expected."""
