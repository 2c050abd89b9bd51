"""What an exported model is: its spec, its fingerprint, and how it is loaded and checked."""

from llmfeat.artifact.model import SPEC_FILE, ModelArtifact
from llmfeat.artifact.spec import REFERENCE_NUMERICS, ArtifactSpec, FileRecord
from llmfeat.artifact.tokenizer import TextTokenizer

__all__ = ["REFERENCE_NUMERICS", "SPEC_FILE", "ArtifactSpec", "FileRecord", "ModelArtifact", "TextTokenizer"]
