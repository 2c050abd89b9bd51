"""Vectors in an embedding layer of plain torch: items that a model never saw are read by what their texts say.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/embedding_matrix.py``.
"""

import numpy as np
import torch
from _made_up import by_time, made_up
from sklearn.metrics import roc_auc_score

from llmfeat.rank.adapters import to_embedding_matrix

DIM, N_KNOWN = 16, 45


class Model(torch.nn.Module):
    """A product of a user's embedding and an item's."""

    def __init__(self, n_users: int, items: torch.nn.Module) -> None:
        super().__init__()
        self.users = torch.nn.Embedding(n_users, DIM)
        torch.nn.init.normal_(self.users.weight, std=0.1)
        self.items = items
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, users, items):
        """Return the logit of a click of each pair."""
        return (self.users(users) * self.items(items)).sum(dim=1) + self.shift


def main() -> None:
    """Fit with drawn embeddings of items and with their vectors, and print the AUC on items that came later."""
    rows, vectors = made_up(seed=0)
    train, valid, test = by_time(rows)
    train, valid, test = train[train.item_id < N_KNOWN], valid[valid.item_id < N_KNOWN], test[test.item_id >= N_KNOWN]
    # The model's own id map: row 0 is padding, then the catalogue, items without a row in the training among it.
    ids = [None, *sorted(rows.item_id.unique())]
    matrix = to_embedding_matrix(vectors, ids)
    print(f"{matrix.is_known.sum()} of {len(ids)} rows have a vector, {matrix.n_unknown} the mean of the others")
    torch.manual_seed(0)
    table = torch.from_numpy(matrix.values)
    drawn = torch.nn.Embedding(len(ids), DIM)
    torch.nn.init.normal_(drawn.weight, std=0.1)
    projected = torch.nn.Sequential(
        torch.nn.Embedding.from_pretrained(table, padding_idx=0), torch.nn.Linear(table.shape[1], DIM, bias=False)
    )
    places = {item: row for row, item in enumerate(ids)}
    users = {user: row for row, user in enumerate(sorted(rows.user_id.unique()))}

    def inputs(part):
        """Return what the model takes: rows of users and of items."""
        return torch.tensor([users[user] for user in part.user_id]), torch.tensor(
            [places[item] for item in part.item_id]
        )

    for name, items in {"without vectors": drawn, "with vectors": projected}.items():
        model = Model(len(users), items)
        fit(model, inputs(train), train.clicked, inputs(valid), valid.clicked)
        print(f"{name:>15}: AUC {auc_of(model, inputs(test), test.clicked):.3f} on items that came later")


def fit(model, inputs, clicked, later, later_clicked) -> None:
    """Train until the rows that came next are predicted no better."""
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.01)
    labels = torch.tensor(clicked.to_numpy(), dtype=torch.float32)
    best, kept, since = 0.0, model.state_dict(), 0
    while since < 5:
        for some in torch.randperm(len(labels)).split(128):
            logits = model(*(each[some] for each in inputs))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        auc, since = auc_of(model, later, later_clicked), since + 1
        if auc > best:
            best, since, kept = auc, 0, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)


def auc_of(model, inputs, clicked) -> float:
    """Return the AUC of the model's logits."""
    with torch.inference_mode():
        return float(roc_auc_score(np.asarray(clicked), model(*inputs).numpy()))


if __name__ == "__main__":
    main()
