"""A network as plain arrays, in the order of their use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.test_model import NETWORKS

from timelike.config import DataConfig, NetworkConfig, SequenceConfig
from timelike.data.transforms import FittedTransforms
from timelike.description import describe
from timelike.model import Model, save_model
from timelike.modelfile import read_model_file
from timelike.network import Network


def described(tmp_path, config: NetworkConfig, n_classes: int = 2):
    torch.manual_seed(3)
    network = Network(config, 2, n_classes, dtype=torch.float64)
    names = {f"c{k}": f"label == {k}" for k in range(n_classes)}
    data = DataConfig(files=("e.root",), variables=("a", "b"), labels=names)
    file = tmp_path / "model.safetensors"
    model = Model(network.eval(), FittedTransforms.unchanged(("a", "b")), data, SequenceConfig())
    save_model(model, file)
    return network, describe(read_model_file(file))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_is_in_its_place(tmp_path, name):
    network, (one,) = described(tmp_path, NETWORKS[name])
    assert len(one.layers) == len(network.recurrent)
    for layer, module in zip(one.layers, network.recurrent, strict=True):
        parameters = dict(module.named_parameters())
        assert layer.output_size == module.output_size
        assert layer.input_size == module.input_size
        taken = [layer.weights[0][n] for n in layer.weights[0]]
        if layer.bidirectional:
            taken += [layer.weights[1][n] for n in layer.weights[1]]
        assert len(taken) == len(parameters)
        for end, weights in zip(("_l0", "_l0_reverse"), layer.weights, strict=False):
            for key, value in weights.items():
                np.testing.assert_array_equal(value, parameters[key + end].detach().numpy())
    for dense, module in zip(one.dense, network.head, strict=True):
        np.testing.assert_array_equal(dense.weight, module.weight.detach().numpy())
        np.testing.assert_array_equal(dense.bias, module.bias.detach().numpy())
    assert one.dense[-1].activation == "linear"
    assert (one.variables, one.names, one.dtype) == (("a", "b"), ("c0", "c1"), np.float64)


def test_batch_normalisation_is_what_it_is_in_inference(tmp_path):
    config = NetworkConfig.model_validate_json('{"head": {"units": [3], "batch_norm": {"before": [0, 1]}}}')
    torch.manual_seed(1)
    network = Network(config, 2, 2, dtype=torch.float64)
    for norm in network.norms.values():
        norm(torch.randn(50, norm.num_features, dtype=torch.float64) * 3 + 1)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    data = DataConfig(files=("e.root",), variables=("a", "b"), labels={"x": "y == 0", "z": "y == 1"})
    model = Model(network.eval(), FittedTransforms.unchanged(("a", "b")), data, SequenceConfig())
    save_model(model, tmp_path / "m.safetensors")
    (one,) = describe(read_model_file(tmp_path / "m.safetensors"))
    for index, dense in enumerate(one.dense):
        x = torch.randn(7, dense.weight.shape[1], dtype=torch.float64)
        expected = network.norms[str(index)](x).detach().numpy()
        np.testing.assert_allclose(dense.scale * x.numpy() + dense.shift, expected, rtol=1e-13, atol=1e-13)
