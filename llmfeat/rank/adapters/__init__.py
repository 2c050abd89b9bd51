"""What other libraries' models take: tables of vectors in the order of their ids, our features as their callbacks."""

from llmfeat.rank.adapters.embedding_matrix import EmbeddingMatrix, to_embedding_matrix

__all__ = ["EmbeddingMatrix", "to_embedding_matrix"]
