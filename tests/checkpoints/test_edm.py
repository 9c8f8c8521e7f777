"""EDM and ECT pickles, written by a stand-in for their persistence class and compared with the formulas written out."""

import collections
import io
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.edm import thirds
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.networks.dhariwal_unet import DhariwalUnet, DhariwalUnetConfig
from cmexport.networks.meta import on_meta
from cmexport.networks.song_unet import SongUnet, SongUnetConfig
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph

SONG = {
    "image_size": 16,
    "stem_channels": 16,
    "widths": (32, 32, 48),
    "num_blocks": 1,
    "attention_resolutions": (8,),
    "noise_channels": 16,
    "embedding_channels": 64,
}
NETWORKS = {
    "ddpmpp": SongUnetConfig(**SONG),
    "ddpmpp_classes": SongUnetConfig(**SONG, num_classes=5),
    "ncsnpp": SongUnetConfig(
        **{**SONG, "noise_channels": 32}, fourier=True, encoder="residual", resample_filter=(1.0, 3.0, 3.0, 1.0)
    ),
    "skip_skip": SongUnetConfig(**SONG, encoder="skip", decoder="skip", resample_filter=(1.0, 3.0, 3.0, 1.0)),
    "dhariwal": DhariwalUnetConfig(16, 32, (32, 64, 128), 2, (8, 4), 128),
    "dhariwal_classes": DhariwalUnetConfig(16, 32, (32, 64), 1, (8,), 128, num_classes=4),
}
FILTERS = {(1.0, 1.0): 2, (1.0, 3.0, 3.0, 1.0): 4}


def raw_weights(config, seed=0):
    """Weights as such a file holds them: `model.` in front, q, k and v interleaved, filters, augmentation inputs."""
    shapes = on_meta(lambda: (SongUnet if isinstance(config, SongUnetConfig) else DhariwalUnet)(config)).state_dict()
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in ((key, value.shape) for key, value in shapes.items()):
        spread = 0.3 if len(shape) == 1 else 0.8 / math.sqrt(math.prod(shape[1:]))
        center = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        weights[f"model.{name}"] = center + spread * torch.randn(shape, generator=generator)
    taps = torch.tensor(config.resample_filter)
    square = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    for name in list(weights):
        if ("_down." in name or "_up." in name or "aux_residual" in name) and "conv0.weight" in name:
            weights[name.replace("conv0.weight", "conv0.resample_filter")] = square
            weights[name.replace("conv0.weight", "skip.resample_filter")] = square
    noise = config.noise_channels if isinstance(config, SongUnetConfig) else config.model_channels
    weights["model.map_augment.weight"] = torch.randn(noise, 9, generator=generator)
    return weights


def formula(config, weights, x, c_noise, label):
    """The published network in float64, as functions of the raw weights; x (N, C, H, W), label (N,) or None."""
    w = {key.removeprefix("model."): value.double() for key, value in weights.items()}
    song = isinstance(config, SongUnetConfig)
    eps, gain = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
    taps = torch.tensor(config.resample_filter, dtype=torch.float64)
    square = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    pad = (len(taps) - 1) // 2

    def norm(name, h):
        return F.group_norm(h, min(32, h.shape[1] // 4), w[name + ".weight"], w[name + ".bias"], eps)

    def conv(name, h, padding=None):
        kernel = w[name + ".weight"].shape[-1]
        return F.conv2d(h, w[name + ".weight"], w[name + ".bias"], padding=kernel // 2 if padding is None else padding)

    def down(h, padding=pad):
        return F.conv2d(h, square.repeat(h.shape[1], 1, 1, 1), groups=h.shape[1], stride=2, padding=padding)

    def up(h):
        filters = 4 * square.repeat(h.shape[1], 1, 1, 1)
        return F.conv_transpose2d(h, filters, groups=h.shape[1], stride=2, padding=pad)

    def linear(name, h):
        return F.linear(h, w[name + ".weight"], w.get(name + ".bias"))

    def block(name, h, emb):
        resample = down if name.endswith("_down") else up if name.endswith("_up") else lambda t: t
        y = conv(f"{name}.conv0", resample(F.silu(norm(f"{name}.norm0", h))))
        change = linear(f"{name}.affine", emb)[:, :, None, None]
        if song:
            y = F.silu(norm(f"{name}.norm1", y + change))
        else:
            scale, shift = change.chunk(2, dim=1)
            y = F.silu(shift + norm(f"{name}.norm1", y) * (scale + 1))
        y = conv(f"{name}.conv1", y)
        h = resample(h)
        if f"{name}.skip.weight" in w:
            h = conv(f"{name}.skip", h)
        y = (y + h) * gain
        if f"{name}.qkv.weight" in w:
            n, c = y.shape[:2]
            heads = 1 if song else c // 64
            q, k, v = conv(f"{name}.qkv", norm(f"{name}.norm2", y)).reshape(n * heads, c // heads, 3, -1).unbind(2)
            attention = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c // heads)).softmax(dim=2)
            a = torch.einsum("nqk,nck->ncq", attention, v).reshape(y.shape)
            y = (conv(f"{name}.proj", a) + y) * gain
        return y

    if song and config.fourier:
        angle = c_noise * 2 * math.pi * w["map_noise.freqs"]
    else:
        half = w["map_layer0.weight"].shape[1] // 2
        angle = c_noise * (1 / 10000) ** (torch.arange(half, dtype=torch.float64) / (half - (1 if song else 0)))
    emb = torch.cat([angle.sin(), angle.cos()] if song else [angle.cos(), angle.sin()])[None]
    one_hot = None if label is None else F.one_hot(label, config.num_classes).double()
    if song:
        if label is not None:
            emb = emb + linear("map_label", one_hot * math.sqrt(config.num_classes))
        emb = F.silu(linear("map_layer1", F.silu(linear("map_layer0", emb))))
    else:
        emb = linear("map_layer1", F.silu(linear("map_layer0", emb)))
        if label is not None:
            emb = emb + linear("map_label", one_hot)
        emb = F.silu(emb)
    emb = emb.expand(len(x), -1)

    x = x.double()
    sizes = [config.image_size >> level for level in range(len(config.widths))]
    skips, aux = [], x
    for size in sizes:
        stage = f"enc.{size}x{size}_"
        x = conv(stage + "conv", x) if size == sizes[0] else block(stage + "down", x, emb)
        if stage + "aux_residual.weight" in w:
            x = aux = (x + down(conv(stage + "aux_residual", aux, padding=1 + pad), padding=0)) / math.sqrt(2)
        if stage + "aux_skip.weight" in w:
            aux = down(aux)
            x = x + conv(stage + "aux_skip", aux)
        skips.append(x)
        for index in range(config.num_blocks):
            x = block(f"{stage}block{index}", x, emb)
            skips.append(x)
    picture = None
    for size in reversed(sizes):
        stage = f"dec.{size}x{size}_"
        if size == sizes[-1]:
            x = block(stage + "in1", block(stage + "in0", x, emb), emb)
        else:
            x = block(stage + "up", x, emb)
        for index in range(config.num_blocks + 1):
            x = block(f"{stage}block{index}", torch.cat([x, skips.pop()], dim=1), emb)
        if stage + "aux_conv.weight" in w:
            picture = 0 if picture is None else up(picture)
            picture = picture + conv(stage + "aux_conv", F.silu(norm(stage + "aux_norm", x)))
    return picture if song else conv("out_conv", F.silu(norm("out_norm", x)))


class EasyDict(dict):
    """Stand-in for dnnlib.util.EasyDict."""


def _reconstruct_persistent_obj(meta):
    exec(meta["module_src"])  # What the real one does; the reader must not.
    return meta


class Persistent:
    """Stand-in for a torch_utils.persistence class: it pickles as source, class name and module state."""

    def __init__(self, class_name, source, state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": class_name,
            "state": EasyDict(state),
        }

    def __reduce__(self):
        return (_reconstruct_persistent_obj, (self.meta,), None)


@pytest.fixture(autouse=True)
def published_names(monkeypatch):
    """Pickle the stand-ins under the names that the published files use."""
    for cls, module, name in (
        (EasyDict, "dnnlib.util", "EasyDict"),
        (_reconstruct_persistent_obj, "torch_utils.persistence", "_reconstruct_persistent_obj"),
    ):
        parent = types.ModuleType(module.split(".")[0])
        child = types.ModuleType(module)
        setattr(child, name, cls)
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
        monkeypatch.setitem(sys.modules, module, child)
        monkeypatch.setattr(cls, "__module__", module)


ECT_SOURCE = """
open({marker!r}, 'w').write('ran')
class EDMPrecond:
    pass
@persistence.persistent_class
class ECMPrecond:
    def forward(self, x, sigma):
        if self.training:
            c_skip = 1
class Other:
    pass
"""
TCM_SOURCE = ECT_SOURCE.replace("        if self.training:\n", "        if True:\n")


def as_modules(weights, source, containers=True):
    """Nest flat names into module states, as nn.Module pickles its __dict__."""
    tree = {}
    for key, value in weights.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value

    def state_of(node):
        state = {"training": False, "_parameters": collections.OrderedDict(), "_buffers": collections.OrderedDict()}
        state["_modules"] = collections.OrderedDict()
        state["_non_persistent_buffers_set"] = set()
        state["skip_scale"] = np.float64(0.5) ** 0.5
        for name, value in node.items():
            if isinstance(value, dict):
                if containers and name in ("enc", "dec"):
                    module = torch.nn.ModuleDict()
                    module.__dict__.update(state_of(value))
                    state["_modules"][name] = module
                else:
                    state["_modules"][name] = Persistent("Layer", source, state_of(value))
            elif name in ("resample_filter", "freqs"):
                state["_buffers"][name] = value
            else:
                state["_parameters"][name] = torch.nn.Parameter(value)
        state["_parameters"]["absent"] = None
        return state

    return state_of(tree)


@pytest.fixture
def snapshot(tmp_path):
    """A function: writes network-snapshot-*.pkl and returns its path and the marker that running it would leave."""

    def write(config, class_name="ECMPrecond", source=ECT_SOURCE, entry="ema", **attributes):
        marker = tmp_path / "ran"
        text = source.format(marker=str(marker))
        weights = raw_weights(config)
        state = as_modules(weights, text)
        state |= {"sigma_min": 0.003, "sigma_max": float("inf"), "sigma_data": 0.5, "use_fp16": False, **attributes}
        content = EasyDict()
        content[entry] = Persistent(class_name, text, state)
        content["loss_fn"] = Persistent("ECMLoss", text, {"sigma_data": 0.5, "t_to_r": "x".join})
        content["augment_pipe"] = None
        content["dataset_kwargs"] = EasyDict(class_name="training.dataset.ImageFolderDataset", use_labels=False)
        path = tmp_path / "network-snapshot-000100.pkl"
        path.write_bytes(pickle.dumps(dict(content)))
        return path, marker, weights

    return write


@pytest.mark.parametrize("name", NETWORKS)
def test_f_is_the_published_formula(name, snapshot):
    config = NETWORKS[name]
    path, marker, weights = snapshot(config)
    model = load_checkpoint(path)
    assert not marker.exists()
    assert model.network.config == config
    constants = (model.preconditioning, model.c_noise, model.noise.sigma_min, model.noise.sigma_max)
    assert constants == ("cm", "0.25ln", 0.003, 80.0)
    assert (model.renoise, model.clamp) == ("ect", False)
    generator = torch.Generator().manual_seed(1)
    noise, renoise = (torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2))
    label = None if config.num_classes is None else torch.tensor([1, config.num_classes - 1])

    def f(x, s, d=0.5, e=0.003):
        predicted = formula(config, weights, x / math.sqrt(s**2 + d**2), 0.25 * math.log(s), label)
        return d**2 / ((s - e) ** 2 + d**2) * x + (s - e) * d / math.sqrt(s**2 + d**2) * predicted

    expected = f(f(80.0 * noise.double(), 80.0) + 0.821 * renoise.double(), 0.821)
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(80.0, 0.821), batch=2)))
    with torch.no_grad():
        got = graph(noise, renoise=renoise[None], label=label)
    assert (got - expected).abs().max() < 1e-4
    assert got.std() > 0.05


def test_tcm_and_edm_and_sets(snapshot):
    config = NETWORKS["ddpmpp"]
    assert load_checkpoint(snapshot(config, source=TCM_SOURCE)[0]).preconditioning == "edm"
    edm = load_checkpoint(snapshot(config, class_name="EDMPrecond", sigma_min=0.0)[0])
    assert (edm.preconditioning, edm.noise.sigma_min) == ("edm", 0.002)
    other = load_checkpoint(snapshot(config, class_name="EDMPrecond")[0], {"precond": "cm", "sigma_min": "0.003"})
    assert (other.preconditioning, other.noise.sigma_min) == ("cm", 0.003)
    unknown = load_checkpoint(snapshot(config, class_name="MyPrecond")[0])
    assert next(s for s in unknown.settings if s.name == "precond").ambiguous
    with pytest.raises(CheckpointError, match="VPPrecond"):
        load_checkpoint(snapshot(config, class_name="VPPrecond")[0])
    with pytest.raises(UsageError, match=r"image_size.*contradicts"):
        load_checkpoint(snapshot(config)[0], {"image_size": "32"})


def test_bare_state_dict(save):
    config = NETWORKS["dhariwal"]
    model = load_checkpoint(save(raw_weights(config)))
    assert model.network.config == config
    assert next(s for s in model.settings if s.name == "precond").ambiguous


def test_several_networks_in_a_snapshot(tmp_path):
    config = NETWORKS["ddpmpp"]
    nets = {entry: raw_weights(config, seed) for seed, entry in enumerate(("net", "ema"))}

    def write(**entries):
        path = tmp_path / "snapshot.pkl"
        modules = {e: Persistent("EDMPrecond", ECT_SOURCE, as_modules(w, ECT_SOURCE)) for e, w in entries.items()}
        path.write_bytes(pickle.dumps({**modules, "augment_pipe": None}))
        return path

    def stem(path, wanted=None):
        return load_checkpoint(path, weights=wanted).network.state_dict()["enc.16x16_conv.weight"]

    def expected(entry):
        return nets[entry]["model.enc.16x16_conv.weight"]

    path = write(**nets)
    assert torch.equal(stem(path), expected("ema"))
    assert torch.equal(stem(path, "net"), expected("net"))
    assert "preferred to" in next(s.origin for s in load_checkpoint(path).settings if s.name == "weights")
    with pytest.raises(CheckpointError, match=r"2 complete sets of weights: 'net\.model', 'other\.model'"):
        stem(write(net=nets["net"], other=nets["ema"]))


@pytest.mark.parametrize("name", ["ddpmpp_classes", "ncsnpp", "dhariwal"])
def test_lists_of_averages_have_no_buffers(name, save):
    """`parameters()` skips resampling filters and frequencies, which lie between the weights of a state dict."""
    config = NETWORKS[name]
    raw, averaged = raw_weights(config, 1), raw_weights(config, 2)
    # As in a module: buffers stand with their convolution, not at the end.
    order = sorted(raw, key=lambda key: ("map" not in key, list(raw).index(key.replace("resample_filter", "weight"))
                                         if key.replace("resample_filter", "weight") in raw else 10**6))  # fmt: skip
    raw = {key: raw[key] for key in order}
    values = [averaged[key] for key in order if not key.endswith(("resample_filter", "freqs"))]
    assert len(values) < len(raw)
    state = {"model": {f"module.{key}": value for key, value in raw.items()}, "ema": {"shadow_params": values}}
    got = load_checkpoint(save(state))
    alone = load_checkpoint(save({**averaged, **{k: v for k, v in raw.items() if k.endswith("freqs")}}, "alone.pt"))
    for key, value in alone.network.state_dict().items():
        assert torch.equal(got.network.state_dict()[key], value), key


def test_interleaved_rows():
    heads, channels = 2, 3
    names = torch.tensor([[[100 * h + 10 * c + j for j in range(3)] for c in range(channels)] for h in range(heads)])
    got = thirds(names.reshape(-1, 1), heads).reshape(3, heads, channels)
    for j in range(3):
        assert got[j].tolist() == [[100 * h + 10 * c + j for c in range(channels)] for h in range(heads)]


def test_published_sizes():
    cifar = SongUnetConfig(32, 128, (256, 256, 256), 4, (16,), 128, 512)
    network = on_meta(lambda: SongUnet(cifar))
    # 55,732,739 with the (128, 9) augmentation input of the released networks.
    assert sum(p.numel() for p in network.parameters()) + 128 * 9 in (55_732_739, 55_732_739 + 128 * 9)
    imagenet = DhariwalUnetConfig(64, 192, (192, 384, 576, 768), 3, (32, 16, 8), 768, num_classes=1000)
    network = on_meta(lambda: DhariwalUnet(imagenet))
    assert abs(sum(p.numel() for p in network.parameters()) - 295_899_267) <= 192 * 9


def hostile(content):
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_foreign_imports_are_refused_and_reported(tmp_path):
    path = tmp_path / "network-snapshot-1.pkl"
    marker = tmp_path / "ran"
    path.write_bytes(hostile({"ema": Call(exec, f"open({str(marker)!r}, 'w')"), "x": Call(eval, "1")}))
    with pytest.raises(CheckpointError, match=r"snapshot-1\.pkl: refused.*builtins\.exec, builtins\.eval"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], "text", {"state": {}, "param_groups": []}, {"ema": None}])
def test_pickles_without_a_network(content, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(hostile(content))
    with pytest.raises(CheckpointError, match=r"x\.pkl"):
        load_checkpoint(path)


@pytest.mark.parametrize("percent", range(1, 100, 9))
def test_truncated_snapshot(percent, snapshot):
    path, marker, _ = snapshot(NETWORKS["ddpmpp"])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(CheckpointError, match=r"network-snapshot"):
        load_checkpoint(path)
    assert not marker.exists()


def test_weights_that_do_not_fit(snapshot, save):
    weights = raw_weights(NETWORKS["ddpmpp"])
    for change in (
        {"model.enc.16x16_block0.conv1.weight": torch.zeros(7, 7, 3, 3)},
        {"model.map_layer0.weight": torch.zeros(3)},
        {"model.enc.8x8_down.conv0.resample_filter": torch.randn(1, 1, 2, 2)},
        {"model.enc.5x5_block0.conv1.weight": torch.zeros(32, 32, 3, 3)},
        {"model.dec.16x16_aux_conv.weight": torch.full((3, 32, 3, 3), float("nan"))},
    ):
        with pytest.raises(CheckpointError, match=r"model\.pt"):
            load_checkpoint(save({**weights, **change}))
