"""Rows for torch-rechub, in its own models."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch_rechub.models import ranking
from torch_rechub.models.ranking import DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import InputError, LLMFeatWarning
from llmfeat.rank.adapters.rechub import RechubData, VectorColumn

DRAW = np.random.default_rng(0)
TABLE = VectorTable.from_arrays([f"i{at}" for at in range(20)], DRAW.standard_normal((20, 6)))
SMALL = VectorTable.from_arrays(TABLE.ids, TABLE.vectors[:, :4])
ROWS = pd.DataFrame(
    {
        "user_id": [f"u{at}" for at in DRAW.integers(0, 10, 200)],
        "item_id": [f"i{at}" for at in DRAW.integers(0, 15, 200)],
        "timestamp": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(200), unit="min"),
        "clicked": DRAW.integers(0, 2, 200),
    }
)
LOG = InteractionLog.from_frame(ROWS, label="clicked")


def made(**changed):
    way = changed.pop("way", "projected")
    vectors = {"text": VectorColumn("item_id", SMALL if way == "warm" else TABLE, way=way)}
    return RechubData(
        **{"dense": HistoryFeatures(LOG, {"text": TABLE}), "sparse": ["user_id", "item_id"], "vectors": vectors,
           "embed_dim": 4, **changed}
    )  # fmt: skip


def trained(model, loader, n_epochs=3):
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.01)
    losses = []
    for _ in range(n_epochs):
        for inputs, labels in loader:
            loss = torch.nn.functional.binary_cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("way", ["projected", "warm"])
def test_models_share_nothing_of_what_they_learn(way):
    data = made(way=way).fit(ROWS)
    torch.manual_seed(0)
    mlp = {"dims": [8], "dropout": 0.0, "activation": "relu"}
    first, second = (DeepFM(data.features_, data.sparse_features_, mlp) for _ in range(2))
    parameters = {name: value.detach().clone() for name, value in second.named_parameters()}
    trained(first, data.loader(ROWS, ROWS.clicked, batch_rows=64))
    assert all(torch.equal(value, parameters[name]) for name, value in second.named_parameters())
    third = DeepFM(data.features_, data.sparse_features_, mlp)
    if way == "warm":
        begun = third.embedding.embed_dict.get_parameter("text.weight").detach().numpy()
        assert np.array_equal(begun[1:], SMALL.vectors)


def test_its_own_trainer_takes_the_loaders(tmp_path):
    data = made().fit(ROWS)
    model = DCNv2(data.features_, n_cross_layers=1, mlp_params={"dims": [8], "dropout": 0.0, "activation": "relu"})
    trainer = CTRTrainer(model, n_epoch=1, model_path=str(tmp_path))
    loader = data.loader(ROWS, ROWS.clicked, batch_rows=64, shuffle=True)
    trainer.fit(loader, data.loader(ROWS, ROWS.clicked))
    assert (tmp_path / "model.pth").is_file()
    predicted = trainer.predict(model, data.loader(ROWS, np.zeros(len(ROWS))))
    with torch.inference_mode():
        wanted = model.eval()({name: torch.from_numpy(each) for name, each in data.inputs(ROWS).items()})
    assert np.allclose(predicted, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("way", ["projected", "frozen", "warm"])
def test_its_models_train_on_them(way):
    data = made(way=way).fit(ROWS, ROWS.clicked)
    torch.manual_seed(0)
    mlp = {"dims": [8], "dropout": 0.0, "activation": "relu"}
    for model in (
        DeepFM(data.features_, data.sparse_features_, mlp),
        DCNv2(data.features_, n_cross_layers=2, mlp_params=mlp),
    ):
        assert ("text" in model.embedding.embed_dict) == (way != "frozen")
        weight = {"projected": "text.table.weight", "warm": "text.weight"}.get(way)
        before = None if weight is None else model.embedding.embed_dict.get_parameter(weight).detach().clone()
        losses = trained(model, data.loader(ROWS, ROWS.clicked, batch_rows=64, shuffle=True))
        assert np.mean(losses[-4:]) < np.mean(losses[:4])
        if weight is not None:
            after = model.embedding.embed_dict.get_parameter(weight).detach()
            assert torch.equal(after, before) == (way == "projected")
        with torch.inference_mode():
            scores = np.concatenate([model(inputs).numpy() for inputs in data.loader(ROWS, batch_rows=77)])
        assert scores.shape == (200,)
    assert len(data.sparse_features_) == (2 if way == "frozen" else 3)


@pytest.mark.parametrize("name", ["DCN", "EDCN", "WideDeep", "FiBiNet", "AutoInt"])
def test_other_models_take_them(name):
    data = made().fit(ROWS)
    mlp = {"dims": [8], "dropout": 0.0, "activation": "relu"}
    every, sparse = data.features_, data.sparse_features_
    model = {
        "DCN": lambda: ranking.DCN(every, n_cross_layers=1, mlp_params=mlp),
        "EDCN": lambda: ranking.EDCN(every, n_cross_layers=1, mlp_params=mlp),
        "WideDeep": lambda: ranking.WideDeep(every, every, mlp),
        "FiBiNet": lambda: ranking.FiBiNet(sparse, reduction_ratio=2, mlp_params=mlp),
        "AutoInt": lambda: ranking.AutoInt(sparse, [], mlp_params=mlp),
    }[name]()
    (inputs, _), *_ = data.loader(ROWS, ROWS.clicked, batch_rows=32)
    assert model(inputs).shape == (32,)


def test_vectors_stand_in_the_rows_of_their_ids():
    cold = pd.DataFrame({"user_id": ["u1"], "item_id": ["i19"], "timestamp": ROWS.timestamp[:1]})
    for rows in (ROWS, cold):
        for way, table in (("projected", TABLE), ("warm", SMALL)):
            data = made(way=way).fit(ROWS)
            layer = next(each for each in data.features_ if each.name == "text").get_embedding_layer()
            layer = layer.table if way == "projected" else layer
            found = layer(torch.from_numpy(data.inputs(rows)["text"])).detach().numpy()
            assert np.array_equal(found, table.lookup(rows.item_id))
        assert np.array_equal(made(way="frozen").fit(ROWS).inputs(rows)["text"], TABLE.lookup(rows.item_id))


def test_ids_that_come_rarely_share_a_row():
    rows = ROWS.copy()
    rows.loc[0, "user_id"] = "once"
    data = made(dense=None).fit(rows)
    unknown = rows.head(3).assign(user_id=["once", "never", "u1"], item_id=["i1", "i19", "nowhere"])
    inputs = data.inputs(unknown)
    assert inputs["user_id"][:2].tolist() == [0, 0]
    assert inputs["user_id"][2] > 0
    assert data.unknown(unknown) == {"user_id": 2, "item_id": 2, "text": 1}
    text = next(each for each in data.features_ if each.name == "text").get_embedding_layer()
    mean = TABLE.vectors.mean(axis=0)
    assert np.allclose(text.table.weight[0].numpy(), mean, atol=1e-6)
    assert made(dense=None, min_rows=1).fit(rows).unknown(rows) == {"user_id": 0, "item_id": 0, "text": 0}


def test_dense_features_have_one_range_and_say_where_they_are_undefined():
    data = made(dense=ActivityFeatures(LOG), sparse=["user_id"], vectors=None).fit(ROWS)
    dense = data.inputs(ROWS)["dense"]
    raw = ActivityFeatures(LOG).fit(ROWS).transform(ROWS)
    assert dense.dtype == np.float32
    assert np.abs(dense).max() <= 1
    assert data.inputs(ROWS[:0])["dense"].shape == (0, dense.shape[1])
    undefined = np.isnan(raw)
    n_indicators = int(undefined.any(axis=0).sum())
    assert n_indicators > 0
    assert dense.shape[1] == raw.shape[1] + n_indicators
    assert np.array_equal(dense[:, raw.shape[1] :], undefined[:, undefined.any(axis=0)])
    assert not dense[:, : raw.shape[1]][undefined].any()
    alone = np.concatenate([data.inputs(ROWS[at : at + 1])["dense"] for at in range(5)])
    assert np.array_equal(alone, dense[:5])


def test_ids_without_vectors_are_said():
    rows = ROWS.assign(item_id=[f"i{at}" for at in DRAW.integers(10, 25, 200)])
    with pytest.warns(LLMFeatWarning, match="ids, such as .* have no vector: the mean of the others"):
        made(dense=None).fit(rows)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dense": None, "sparse": (), "vectors": None}, "nothing to feed"),
        ({"sparse": ["text"]}, "a name of its own"),
        ({"embed_dim": 0}, "embed_dim=0"),
        ({"min_rows": 0}, "min_rows=0"),
        ({"way": "thawed"}, "way is one of"),
        ({"vectors": {"text": TABLE}}, "VectorColumn"),
        ({"way": "warm", "embed_dim": 8}, "bring them there with reduce_table"),
        ({"vectors": {"text": VectorColumn("item_id", np.eye(3))}}, "VectorColumn"),
        ({"vectors": {"items": VectorColumn("item_id", TABLE)}}, r"no layers called \['items'\]"),
        ({"vectors": {"a.b": VectorColumn("item_id", TABLE)}}, r"no layers called \['a.b'\]"),
        ({"sparse": "user_id"}, r"pass \['user_id'\]"),
    ],
)
def test_parameters_that_make_no_sense(options, match):
    with pytest.raises(InputError, match=match):
        made(**options).fit(ROWS)


def test_labels_are_one_a_row():
    data = made(dense=None).fit(ROWS)
    for labels, match in ((ROWS.clicked[:5], "a label for each row"), (["x"] * 200, "no numbers")):
        with pytest.raises(InputError, match=match):
            data.loader(ROWS, labels)
    with pytest.raises(InputError, match="1 of 200 labels that are not finite"):
        data.loader(ROWS, ROWS.clicked.astype(float).where(ROWS.index > 0))


def test_copies_and_pickles_give_the_same():
    data = made().fit(ROWS)
    wanted = data.inputs(ROWS)
    for other in (pickle.loads(pickle.dumps(data)), clone(data).fit(ROWS)):
        found = other.inputs(ROWS)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert made(embed_dim=np.int64(4)).fit(ROWS).features_[0].embed_dim == 4
