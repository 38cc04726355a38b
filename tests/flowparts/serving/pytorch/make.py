"""Train a small network with PyTorch on the wine data, export it, and write down what it answers itself.

Writes network.onnx, and answers.json: for each row its probabilities, with the first value of the first row
left out. Needs torch, onnxscript and scikit-learn; test_pytorch.py needs only the files.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_wine
from torch import nn

HERE = Path(__file__).parent


class Network(nn.Module):
    """Probabilities of the classes; takes each raw column as an argument: (rows, 1), NaN where missing."""

    def __init__(self, values: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", values.mean(0))
        self.register_buffer("deviation", values.std(0))
        self.layers = nn.Sequential(nn.Linear(values.shape[1], 16), nn.ReLU(), nn.Linear(16, classes))

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        return self.layers((torch.where(torch.isnan(values), self.mean, values) - self.mean) / self.deviation)

    def forward(self, *columns: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(torch.cat(columns, 1)), 1)


torch.manual_seed(0)
wine = load_wine()
values, labels = torch.tensor(wine.data, dtype=torch.float32), torch.tensor(wine.target)
network = Network(values, 3)
optimizer = torch.optim.Adam(network.parameters(), 0.01)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network.logits(values), labels).backward()
    optimizer.step()

network.eval()
rows = torch.export.Dim("rows")
torch.onnx.export(
    network,
    tuple(values[:4].split(1, 1)),
    HERE / "network.onnx",
    input_names=wine.feature_names,
    output_names=["probabilities"],
    dynamic_shapes=(({0: rows},) * values.shape[1],),
    external_data=False,
)
values[0, 0] = float("nan")
with torch.no_grad():
    answers = network(*values.split(1, 1))
(HERE / "answers.json").write_text(
    json.dumps([[round(p, 7) for p in row] for row in answers.tolist()]) + "\n"
)
