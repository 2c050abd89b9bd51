"""Two towers, of users and of items: trained in torch, served by ONNX Runtime."""

from llmfeat.rank.two_tower.estimator import TwoTower
from llmfeat.rank.two_tower.towers import Towers

__all__ = ["Towers", "TwoTower"]
