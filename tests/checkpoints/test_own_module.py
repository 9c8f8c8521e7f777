"""Networks of one's own, from Python and from a file."""

import textwrap

import pytest
import torch
from torch import nn

from cmexport.checkpoints import load, load_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph


class Tiny(nn.Module):
    def __init__(self, channels=2, classes=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.table = nn.Embedding(classes, channels) if classes else None

    def forward(self, x, c_noise, label=None):
        x = self.drop(self.conv(x)) + c_noise.to(x.dtype)[:, None, None, None]
        return x if self.table is None else x + self.table(label)[:, :, None, None]


def test_load_and_sample():
    network = Tiny(classes=4)
    spec = {"image_size": 8, "in_channels": 2, "num_classes": 4, "precond": "edm", "c_noise": "0.25ln", "clamp": False}
    model = load(network, spec)
    noise, label = torch.randn(2, 2, 8, 8), torch.tensor([3, 0])
    got = SamplerGraph(resolve(model, SampleRequest(batch=2)))(noise, label=label)
    s, d = 80.0, 0.5
    x = s * noise.double()
    net = Tiny(classes=4).double().eval()
    net.load_state_dict(network.state_dict())
    c_noise = 0.25 * torch.log(torch.tensor([s], dtype=torch.float64))
    raw = net(x / (s * s + d * d) ** 0.5, c_noise, label)
    expected = d * d / (s * s + d * d) * x + s * d / (s * s + d * d) ** 0.5 * raw
    assert (got - expected).abs().max() < 1e-5
    ambiguous = {setting.name for setting in model.settings if setting.ambiguous}
    assert ambiguous == {"sigma_data", "sigma_min", "sigma_max", "rho", "levels", "renoise"}
    assert len(model.source.sha256) == 64


def test_half_precision_is_copied():
    network = Tiny().half()
    model = load(network, {"image_size": 8, "in_channels": 2})
    assert model.network.conv.weight.dtype == torch.float32
    assert network.conv.weight.dtype == torch.float16


def test_bad_specs():
    with pytest.raises(UsageError, match="image_size"):
        load(Tiny(), {"in_channels": 2})
    with pytest.raises(UsageError, match="did you mean 'sigma_max'"):
        load(Tiny(), {"image_size": 8, "sigma_mx": 3})
    with pytest.raises(UsageError, match="qkv_order"):
        load(Tiny(), {"image_size": 8, "in_channels": 2, "qkv_order": "thirds"})
    with pytest.raises(CheckpointError, match="can't be evaluated"):
        load(Tiny(), {"image_size": 8, "in_channels": 3})
    broken = Tiny()
    broken.conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"conv\.weight.*NaN"):
        load(broken, {"image_size": 8, "in_channels": 2})


@pytest.fixture
def module(tmp_path):
    def write(body, name="my_module.py"):
        path = tmp_path / name
        path.write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(body))
        return f"{path}:build"

    return write


def test_module_file(module, tmp_path):
    (tmp_path / "helper_of_mine.py").write_text("CHANNELS = 2\n")
    reference = module("""
        from helper_of_mine import CHANNELS
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
            def forward(self, x, c_noise):
                return self.conv(x)
        def build():
            return Net(), {"in_channels": 2, "image_size": 16, "sigma_max": 10}
    """)
    model = load_checkpoint(reference, {"image_size": "8", "precond": "edm"})
    assert (model.image_size, model.channels, model.noise.sigma_max, model.preconditioning) == (8, 2, 10.0, "edm")
    origins = {setting.name: setting.origin for setting in model.settings}
    assert (origins["sigma_max"], origins["precond"]) == ("spec", "--set precond")
    assert model.source.format == "own module my_module.py:build"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def other(): pass", "no function 'build'"),
        ("def build(): return 3", "int"),
        ("def build(): raise KeyError('weights')", "KeyError"),
        ("def build(:", "SyntaxError"),
        ("import not_installed_anywhere", "ModuleNotFoundError"),
    ],
)
def test_module_files_that_fail(body, reason, module):
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(module(body), {"image_size": "8"})
    assert "my_module.py" in str(caught.value)


def test_missing_module():
    with pytest.raises(CheckpointError, match=r"absent\.py: no such file"):
        load_checkpoint("absent.py:build", {"image_size": "8"})
