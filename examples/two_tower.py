"""Two towers: candidates from the whole catalogue, items that nobody met among them.

The data is made up, so that the answer is known: a user goes round five topics, and the topic of an item is in its
vector. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/two_tower.py``.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from llmfeat import TwoTower, VectorTable
from llmfeat.history import Sequences

N_TOPICS, N_ITEMS, N_COLD = 5, 200, 20


def main() -> None:
    """Fit, serve from the saved graphs, and print how often what came next is among the first candidates."""
    draw = np.random.default_rng(0)
    topics, topic = draw.standard_normal((N_TOPICS, 16)), np.arange(N_ITEMS) % N_TOPICS
    table = VectorTable.from_arrays(range(N_ITEMS), topics[topic] + 0.3 * draw.standard_normal((N_ITEMS, 16)))
    # The last items are new: they come in no training sequence.
    starts = draw.integers(N_TOPICS, size=600)
    known = [np.flatnonzero(topic[:-N_COLD] == at) for at in range(N_TOPICS)]
    paths = [[draw.choice(known[(start + step) % N_TOPICS]) for step in range(8)] for start in starts]
    users = pd.DataFrame({"history": paths})
    train = Sequences.from_lists(users[:500], "history", item_ids=range(N_ITEMS))
    # As few pairs as these want small batches, and the epochs that are best by users held out.
    towers = TwoTower(table, dim=32, batch_rows=64, epochs=20, learning_rate=0.01).fit(train)
    with tempfile.TemporaryDirectory() as folder:
        towers.save(Path(folder) / "towers")
        served = TwoTower.load(Path(folder) / "towers", table)  # from here on without torch
    test = pd.DataFrame({"history": [path[:-1] for path in paths[500:]]})
    histories = Sequences.from_lists(test, "history", item_ids=range(N_ITEMS))
    found = served.recommend(histories, 40).to_pandas()
    wanted = pd.Series([str(path[-1]) for path in paths[500:]], name="item_id")
    hits = found.item_id.to_numpy() == wanted[found["query"]].to_numpy()
    print(f"recall among 40 of {N_ITEMS} items: {hits.sum() / len(wanted):.2f}, by chance {40 / N_ITEMS:.2f}")
    is_cold = found.item_id.astype(int) >= N_ITEMS - N_COLD
    right = topic[found.item_id.astype(int)] == topic[wanted.astype(int)][found["query"]]
    print(f"of the {is_cold.sum()} new items among them, {right[is_cold].mean():.2f} are of the topic that came next")
    print(f"furthest from torch: {max(served.towers_.trained['parity'][each] for each in ('items', 'users')):.0e}")


if __name__ == "__main__":
    main()
