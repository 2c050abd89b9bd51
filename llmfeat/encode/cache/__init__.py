"""Vectors by text, on disk: a text is encoded once, whoever asks next.

Folds of a cross-validation, grid searches, batch jobs and servers share one folder at once, which is why it is LMDB:
readers take no lock and never wait, there is one writer at a time among any number of processes, and pages are written
beside the old ones, so that a process that is killed leaves the last committed state. LMDB does not support network
file systems: its memory map and its locks hold between the processes of one machine.

Vectors lie in *chunks*, the rows that were written together, and an index says where the vector of a key is. Vectors in
a B-tree by key, which is random, would cost the empty half of each page, and a random read each; chunks cost neither.
They are also what is thrown out when space runs short, the one that was not used for longest first.

The layers, from the disk up: `chunks` is the layout, `file` opens the data file or moves it aside, `environment` is
what is open in this process, `vectors` is the cache.
"""

from llmfeat.encode.cache.vectors import CacheInfo, VectorCache

__all__ = ["CacheInfo", "VectorCache"]
