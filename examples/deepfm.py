"""DeepFM of torch-rechub: what the user's own history and the items' vectors add to a CTR model, on later requests.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/deepfm.py``.
"""

import numpy as np
import torch
from _made_up import by_time, made_up
from sklearn.metrics import roc_auc_score
from torch_rechub.models.ranking import DeepFM

from llmfeat import HistoryFeatures, InteractionLog
from llmfeat.rank.adapters.rechub import RechubData, VectorColumn

IDS = ["user_id", "item_id"]


def main() -> None:
    """Fit with and without our features, and print the AUC on the last requests."""
    rows, vectors = made_up(seed=0)
    train, valid, test = by_time(rows)
    # The log may reach past the rows: a row's features see only what is strictly earlier than the row.
    log = InteractionLog.from_frame(rows, label="clicked")
    for name, data in {
        "without history": RechubData(sparse=IDS),
        "with history": RechubData(
            HistoryFeatures(log, {"text": vectors}), sparse=IDS, vectors={"text": VectorColumn("item_id", vectors)}
        ),
    }.items():
        data.fit(train)
        torch.manual_seed(0)
        mlp = {"dims": [32, 16], "dropout": 0.1, "activation": "relu"}
        model = DeepFM(data.features_, data.sparse_features_, mlp)
        # CTRTrainer takes the same loaders, and prints as it goes.
        epochs = fit(model, data.loader(train, train.clicked, batch_rows=128, shuffle=True), data, valid)
        auc = roc_auc_score(test.clicked, predict(model, data, test))
        print(f"{name:>15}: AUC {auc:.3f} on later requests, after {epochs} epochs")


def fit(model, loader, data, valid) -> int:
    """Train until the rows that came next are predicted no better; return the epochs that are kept."""
    optimizer = torch.optim.Adam(
        [each for each in model.parameters() if each.requires_grad], lr=3e-3, weight_decay=1e-5
    )
    best, kept, epochs = 0.0, None, 0
    for epoch in range(1, 31):
        model.train()
        for inputs, labels in loader:
            loss = torch.nn.functional.binary_cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        auc = roc_auc_score(valid.clicked, predict(model, data, valid))
        if auc > best:
            best, epochs, kept = auc, epoch, {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch > epochs + 2:
            break
    model.load_state_dict(kept)
    return epochs


def predict(model, data, rows) -> np.ndarray:
    """Return the probability of a click of each row."""
    model.eval()
    with torch.inference_mode():
        return np.concatenate([model(inputs).numpy() for inputs in data.loader(rows)])


if __name__ == "__main__":
    main()
