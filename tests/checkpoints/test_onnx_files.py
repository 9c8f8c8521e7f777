"""ONNX files as checkpoints: what strangers' exporters write is read, proven, or refused before any picture."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_denoisers import export_denoiser

from benchmarks.fetch_terrain import MODEL
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.reading import container_of
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.denoiser import denoise
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner

FACTS = (("difficulty", "continuous-1-to-100"), ("architecture", "consistency-unet-32"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A stranger's file with a continuous condition; nothing may change it."""
    return export_denoiser(tmp_path_factory.mktemp("theirs") / "theirs.onnx", facts=FACTS)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """One with classes and the older order of qkv."""
    return export_denoiser(tmp_path_factory.mktemp("labelled") / "labelled.onnx", classes=5, legacy=True)


@pytest.fixture
def changed(written, tmp_path):
    """A function: the file after `change(graph)`."""

    def write(change, name="changed.onnx"):
        model = onnx.load(written)
        change(model)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    said = str(caught.value)
    assert str(path) in said
    assert len(said.splitlines()) <= 3
    assert all(word in said for word in words), said


def theirs(path, noisy, sigma, condition, name):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"noisy": noisy, "sigma": sigma, name: condition})[0]


def settings(model):
    return {s.name: s for s in model.settings}


def largest_difference(path, model, numbers, name):
    """Over noise levels from the largest to the smallest and values of the condition in the users' units."""
    found = []
    for seed, number in enumerate(numbers):
        rng = np.random.default_rng(seed)
        sigma = float(np.exp(rng.uniform(np.log(model.noise.sigma_min), np.log(80.0))))
        side = model.space.height
        noisy = (sigma * rng.standard_normal((1, 1, side, side))).astype(np.float32)
        if name == "label":
            fed = given = torch.tensor([number])
        else:
            given = torch.tensor([float(number)])
            fed = (given - 1) / 99
        expected = theirs(path, noisy, np.array([sigma], np.float32), fed.numpy(), name)
        (condition,) = model.conditions
        drawn = denoise(model, torch.from_numpy(noisy), sigma, **{condition.name: condition.of(given)})
        found.append(np.abs(drawn.clamp(-1, 1).numpy() - expected).max())
    return max(found)


class TestReading:
    def test_the_container_is_told_by_its_first_bytes(self, written) -> None:
        assert container_of(written) == "onnx"

    def test_all_that_a_graph_says_is_read_off_it(self, written) -> None:
        model = load_checkpoint(written)
        found = settings(model)
        stated = {
            "image_size": 16,
            "num_head_channels": 16,
            "qkv_order": "thirds",
            "groups": 32,
            "precond": "cm",
            "c_noise": "250ln",
            "sigma_min": 0.01,
            "clamp": True,
            "label_range": (1, 100),
        }
        assert {name: found[name].value for name in stated} == stated
        assert found["sigma_data"].value == pytest.approx(0.4, rel=1e-6)
        assert [s.name for s in model.assumed] == ["levels"]
        assert model.source.format == "openai (onnx)"

    def test_pictures_are_those_of_the_file(self, written) -> None:
        model = load_checkpoint(written)
        assert largest_difference(written, model, (1, 17, 40, 100), "difficulty") < 1e-5

    def test_classes_and_the_older_order_of_qkv(self, labelled) -> None:
        model = load_checkpoint(labelled)
        found = settings(model)
        assert (model.classes, found["qkv_order"].value, found["num_head_channels"].value) == (5, "head_major", 16)
        assert largest_difference(labelled, model, (0, 2, 4), "label") < 1e-5

    def test_units_that_nobody_states_are_a_guess(self, changed) -> None:
        path = changed(lambda m: m.ClearField("metadata_props"))
        model = load_checkpoint(path)
        assert settings(model)["label_range"].ambiguous
        assert model.conditions[0].input.drawn.limits == (0, 1)
        told = load_checkpoint(path, {"label_range": "1,100"})
        assert [s.name for s in told.assumed] == ["levels"]
        assert torch.equal(told.conditions[0].of(torch.tensor([1.0, 100.0])), torch.tensor([0.0, 1.0]))

    def test_a_wrong_statement_is_refused_by_the_file_itself(self, written) -> None:
        with pytest.raises(CheckpointError, match=r"differ by \d.*\(at most 0.0001\)"):
            load_checkpoint(written, {"qkv_order": "head_major"})
        with pytest.raises(CheckpointError, match="differ by"):
            load_checkpoint(written, {"sigma_data": "0.5"})

    def test_weights_beside_the_file(self, written, tmp_path) -> None:
        path = tmp_path / "beside.onnx"
        onnx.save(onnx.load(written), path, save_as_external_data=True, location="beside.bin", size_threshold=64)
        model, whole = load_checkpoint(path), load_checkpoint(written)
        state = model.network.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in whole.network.state_dict().items())
        before = model.source.sha256
        content = bytearray((tmp_path / "beside.bin").read_bytes())
        content[0] ^= 1  # a bit of one weight: small enough to agree, and another file all the same
        (tmp_path / "beside.bin").write_bytes(content)
        assert load_checkpoint(path).source.sha256 != before


class TestDifficulty:
    def test_the_graph_takes_users_units(self, written) -> None:
        sampler = resolve(load_checkpoint(written))
        given = next(i for i in sampler.signature.inputs if i.name == "difficulty")
        assert (given.shape, given.dtype, given.drawn.limits) == ((1,), "float32", (1.0, 100.0))
        noise = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
        for difficulty in (1, 63):
            with TorchRunner(sampler) as run:
                (image,) = run({"noise": noise, "difficulty": np.array([difficulty], np.float32)}).values()
            unit = np.array([(difficulty - 1) / 99], np.float32)
            expected = theirs(written, 80 * noise, np.array([80], np.float32), unit, "difficulty")
            assert np.abs(image - expected).max() < 1e-4

    def test_a_value_is_baked_in(self, written) -> None:
        sampler = resolve(load_checkpoint(written, {"difficulty": "40"}))
        assert sampler.signature.names == ("noise",)
        noise = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
        with TorchRunner(sampler) as run:
            (image,) = run({"noise": noise}).values()
        unit = np.array([39 / 99], np.float32)
        expected = theirs(written, 80 * noise, np.array([80], np.float32), unit, "difficulty")
        assert np.abs(image - expected).max() < 1e-4

    def test_a_value_out_of_range(self, written) -> None:
        with pytest.raises(UsageError, match="--set difficulty=101: out of range, this model takes 1 to 100"):
            load_checkpoint(written, {"difficulty": "101"})

    def test_values_are_listed(self, written) -> None:
        model = load_checkpoint(written)
        given = resolve(model, SampleRequest(levels_of={"difficulty": 100})).signature.inputs[-1]
        assert given.drawn.values == tuple(map(float, range(1, 101)))
        assert given.count is None  # no class: nothing asks for a label
        with pytest.raises(UsageError, match="takes no such number; it has difficulty"):
            resolve(model, SampleRequest(levels_of={"label": 3}))
        with pytest.raises(UsageError, match="must be 2 to 4096"):
            resolve(model, SampleRequest(levels_of={"difficulty": 1}))
        baked = load_checkpoint(written, {"difficulty": "40"})
        with pytest.raises(UsageError, match="--set difficulty=40 bakes it in"):
            resolve(baked, SampleRequest(levels_of={"difficulty": 100}))


def node(model, kind, number=0):
    return [n for n in model.graph.node if n.op_type == kind][number]


def rename(model, old, new):
    for tensor in model.graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    for each in model.graph.node:
        each.input[:] = [new if name == old else name for name in each.input]


class TestFilesThatLie:
    def test_a_weight_under_another_name(self, changed) -> None:
        path = changed(lambda m: rename(m, "network.out.2.weight", "network.last.weight"))
        refused(path, "(Conv) takes 'network.last.weight', which is no weight of an ADM UNet")

    def test_two_weights_under_each_others_names(self, changed) -> None:
        one, other = (f"network.middle_block.{i}.in_layers.2" for i in (0, 2))

        def swap(model):
            for part in ("weight", "bias"):
                rename(model, f"{one}.{part}", "aside")
                rename(model, f"{other}.{part}", f"{one}.{part}")
                rename(model, "aside", f"{other}.{part}")

        refused(changed(swap), "differ by", "(at most 0.0001)")

    def test_a_bias_of_another_layer(self, changed) -> None:
        def swap(model):
            node(model, "Conv", 1).input[2] = "network.input_blocks.0.0.bias"

        refused(changed(swap), "(Conv) adds 'network.input_blocks.0.0.bias' to input_blocks.1.0.in_layers.2")

    def test_a_norm_that_adds_before_it_multiplies(self, changed) -> None:
        def swap(model):
            normed = node(model, "InstanceNormalization").output[0]
            shaped = next(n for n in model.graph.node if normed in n.input)
            product = next(n for n in model.graph.node if shaped.output[0] in n.input)
            total = next(n for n in model.graph.node if product.output[0] in n.input)
            product.op_type, total.op_type = total.op_type, product.op_type

        refused(changed(swap), "(InstanceNormalization)")

    def test_a_norm_with_another_epsilon(self, changed) -> None:
        def spoil(model):
            node(model, "InstanceNormalization", 2).attribute[0].f = 1e-3

        refused(changed(spoil), "(InstanceNormalization) has the epsilon 0.001")

    def test_scale_and_shift_of_a_norm_exchanged(self, changed) -> None:
        def swap(model):
            split = node(model, "Split")
            split.output[:] = split.output[::-1]

        refused(changed(swap), "differ by")

    def test_a_foreign_unet(self, tmp_path) -> None:
        weight = numpy_helper.from_array(np.zeros((1, 1, 3, 3), np.float32), "down.0.weight")
        conv = helper.make_node("Conv", ["x", "down.0.weight"], ["y"], pads=[1] * 4)
        border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 8, 8)) for name in "xy"]
        graph = helper.make_graph([conv], "unet", border[:1], border[1:], [weight])
        onnx.save(helper.make_model(graph), tmp_path / "foreign.onnx")
        refused(tmp_path / "foreign.onnx", "no ADM UNet is in this graph", "down.0.weight")

    def test_an_operator_that_has_no_place(self, changed) -> None:
        def spoil(model):
            node(model, "Sigmoid", 3).op_type = "Tanh"

        refused(changed(spoil), "(Tanh) has no place in it")

    def test_a_time_scale_that_nobody_uses(self, changed) -> None:
        def spoil(model):
            log = node(model, "Log").output[0]
            scale = next(n for n in model.graph.node if log in n.input).input
            name = next(i for i in scale if i != log)
            held = next(t for t in model.graph.initializer if t.name == name)
            held.CopyFrom(numpy_helper.from_array(np.array(333, np.float32), name))

        refused(changed(spoil), "(Log) feeds the time embedding 333 ln sigma")


class TestHostileFiles:
    def test_operators_of_its_own(self, changed) -> None:
        def spoil(model):
            node(model, "Conv").domain = "com.evil"
            model.opset_import.append(helper.make_opsetid("com.evil", 1))

        refused(changed(spoil), "(Conv) is an operator of com.evil, not of ONNX; it is not run")

    def test_functions(self, changed) -> None:
        def spoil(model):
            body = [helper.make_node("Identity", ["a"], ["b"])]
            function = helper.make_function("evil", "Conv2", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
            model.functions.append(function)

        refused(changed(spoil), "brings operators of its own (Conv2)")

    def test_a_graph_inside_a_node(self, changed) -> None:
        def spoil(model):
            inner = helper.make_graph([], "inner", [], [])
            node(model, "Conv").attribute.append(helper.make_attribute("body", inner))

        refused(changed(spoil), "(Conv) holds a graph of its own")

    @pytest.mark.parametrize("where", ["../outside.bin", "/etc/passwd", "..", "", "linked.bin"])
    def test_weights_in_somebody_elses_file(self, changed, tmp_path, where) -> None:
        (tmp_path.parent / "outside.bin").write_bytes(bytes(10_000))
        (tmp_path / "linked.bin").symlink_to(tmp_path.parent / "outside.bin")

        def spoil(model):
            tensor = next(t for t in model.graph.initializer if t.name.endswith("out.2.weight"))
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=where)

        refused(changed(spoil), "which is not a file beside it")

    def test_weights_beyond_the_end_of_their_file(self, changed, tmp_path) -> None:
        (tmp_path / "short.bin").write_bytes(bytes(10))

        def spoil(model):
            tensor = next(t for t in model.graph.initializer if t.name.endswith("out.2.weight"))
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="short.bin")

        refused(changed(spoil), "needs 1,152 bytes at 0 of short.bin, which has 10")

    def test_a_shape_that_its_numbers_do_not_fill(self, changed) -> None:
        def spoil(model):
            tensor = next(t for t in model.graph.initializer if t.name.endswith("out.2.weight"))
            tensor.dims[0] = 2**40

        refused(changed(spoil), "claims the shape (1099511627776")

    def test_a_picture_that_grows(self, changed) -> None:
        def spoil(model):
            name = node(model, "Resize").input[2]
            held = next(t for t in model.graph.initializer if t.name == name)
            held.CopyFrom(numpy_helper.from_array(np.array([1, 1, 4096, 4096], np.float32), name))

        refused(changed(spoil), "(Resize) does not double height and width")

    def test_a_tower_of_concatenations(self, changed) -> None:
        def spoil(model):
            first, name = node(model, "Conv"), "noisy"
            at = list(model.graph.node).index(first)
            for step in range(40):
                doubled = helper.make_node("Concat", [name, name], [f"tower{step}"], axis=1)
                name = f"tower{step}"
                model.graph.node.insert(at + step, doubled)

        refused(changed(spoil), "(Concat)", "numbers")

    @pytest.mark.parametrize("length", [3, 40, 3000])
    def test_a_truncated_file(self, written, tmp_path, length) -> None:
        (tmp_path / "cut.onnx").write_bytes(written.read_bytes()[:length])
        refused(tmp_path / "cut.onnx")

    def test_weights_that_are_not_numbers(self, changed) -> None:
        def spoil(model):
            tensor = next(t for t in model.graph.initializer if t.name.endswith("out.2.bias"))
            tensor.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), tensor.name))

        refused(changed(spoil), "out.2.bias holds NaN")

    def test_a_pickle_that_runs_code_under_this_name(self, tmp_path) -> None:
        class Evil:
            def __reduce__(self):
                return (exec, ("raise SystemExit(99)",))

        torch.save({"time_embed.0.weight": Evil()}, tmp_path / "evil.onnx")
        refused(tmp_path / "evil.onnx", "nothing was run")


@pytest.mark.skipif(not MODEL.is_file(), reason="`python benchmarks/fetch_terrain.py` fetches the file")
class TestStrangers:
    """Youwei Yu's terrain model, trained and exported by people who know nothing of this project."""

    def test_it_is_read_without_a_guess_that_matters(self) -> None:
        model = load_checkpoint(MODEL)
        found = settings(model)
        assert (model.parameters, model.channels, model.image_size) == (10_456_545, 1, 128)
        assert model.network.config.channel_mult == (1, 1, 2, 3, 4)
        assert model.network.config.num_res_blocks == 4
        assert (found["sigma_min"].value, found["sigma_data"].value) == (0.002, 0.5)
        assert (found["label_range"].value, found["num_head_channels"].value) == ((1, 100), 32)
        assert [s.name for s in model.assumed] == ["levels"]
        assert largest_difference(MODEL, model, (1, 40, 100), "difficulty") < 1e-4
