"""What an exported model is: its spec, its fingerprint, and how it is loaded and checked."""

from llmfeat.artifact.model import ModelArtifact
from llmfeat.artifact.spec import ArtifactSpec, FileRecord
from llmfeat.artifact.tokenizer import TextTokenizer

__all__ = ["ArtifactSpec", "FileRecord", "ModelArtifact", "TextTokenizer"]
