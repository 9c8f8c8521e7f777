"""Operations that reorder, join, cut or look up numbers, against numpy and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError

few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@few
@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple), data=st.data())
def test_shapes(check, mb, normal, shape, data):
    rank = len(shape)
    x = normal(data.draw(st.integers(0, 99)), *shape)
    perm = data.draw(st.permutations(range(rank)))
    axis = data.draw(st.integers(-rank, rank - 1))
    reps = [data.draw(st.integers(1, 3)) for _ in shape]
    at = data.draw(st.integers(0, rank))
    cut = data.draw(st.integers(0, shape[axis] - 1))

    def build(x):
        yield mb.transpose(x=x, perm=perm)
        yield mb.reshape(x=x, shape=[-1, shape[-1]])
        yield mb.reshape(x=x, shape=[0] * (rank - 1) + [-1])
        yield mb.reshape(x=x, shape=[-1, 1, 0])
        yield mb.expand_dims(x=x, axes=[at, -1])
        yield mb.squeeze(x=mb.expand_dims(x=x, axes=[at]), axes=[at])
        yield mb.reverse(x=x, axes=[axis])
        yield mb.tile(x=x, reps=reps)
        yield mb.concat(values=[x, mb.relu(x=x)], axis=axis)
        yield mb.concat(values=[x, mb.relu(x=x)], axis=axis, interleave=True)
        yield mb.stack(values=[x, mb.relu(x=x)], axis=axis)
        yield mb.flatten2d(x=x, axis=at)
        yield mb.cumsum(x=x, axis=axis % rank, reverse=bool(cut % 2))
        yield mb.cumsum(x=x, axis=axis % rank, exclusive=True)
        yield mb.band_part(x=x, lower=cut, upper=-1)
        yield mb.band_part(x=x, lower=-1, upper=0)
        yield mb.sliding_windows(x=x, axis=axis, size=cut + 1)
        yield from mb.split(x=mb.concat(values=[x, x], axis=axis), num_splits=2, axis=axis)
        yield mb.shape(x=x)
        yield mb.fill_like(ref_tensor=x, value=np.float32(2.5))

    r = np.maximum(x, 0)
    before, after = np.expand_dims(np.expand_dims(x, at), -1), np.stack([x, r], axis % rank + 1)
    running = np.flip(np.cumsum(np.flip(x, axis), axis), axis) if cut % 2 else np.cumsum(x, axis)
    windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, cut + 1, axis), -1, axis % rank + 1)
    interleaved = [n * 2 if i == axis % rank else n for i, n in enumerate(shape)]
    expected = [
        x.transpose(perm),
        x.reshape(-1, shape[-1]),
        x,
        x.reshape(-1, 1, shape[-1]),
        before,
        x,
        np.flip(x, axis),
        np.tile(x, reps),
        np.concatenate([x, r], axis),
        after.reshape(interleaved),
        np.stack([x, r], axis),
        x.reshape(int(np.prod(shape[:at])), -1),
        running,
        np.cumsum(x, axis) - x,
        np.tril(np.ones(shape[-2:]), 10) * x * (np.subtract.outer(*map(np.arange, shape[-2:])) <= cut),
        np.tril(x),
        windows,
        x,
        x,
        np.array(shape),
        np.full(shape, 2.5),
    ]
    check(build, {"x": x}, [np.ascontiguousarray(v) for v in expected])


@few
@given(shape=st.lists(st.integers(2, 5), min_size=1, max_size=4).map(tuple), data=st.data())
def test_slices(check, mb, normal, shape, data):
    rank = len(shape)
    x = normal(1, *shape)
    stride = [data.draw(st.sampled_from([1, 2, -1])) for _ in shape]
    begin, end, masks = [], [], [[], [], []]
    for n, s in zip(shape, stride, strict=True):
        low = data.draw(st.integers(0, n - 1))
        high = data.draw(st.integers(low, n - 1))
        forward = s > 0
        begin.append(low if forward else high - n)
        masks[0].append(data.draw(st.booleans()))
        masks[1].append(data.draw(st.booleans()) or not forward)
        masks[2].append(data.draw(st.integers(0, 3)) == 0)
        end.append(high + 1)
    masks[2][0] = False
    masks[0] = [m and not q for m, q in zip(masks[0], masks[2], strict=True)]
    numpy_slices = tuple(
        b if q else slice(None if bm else b, None if em else e, s)
        for b, e, s, bm, em, q in zip(begin, end, stride, *masks, strict=True)
    )
    size = [data.draw(st.sampled_from([-1, 1])) for _ in shape]
    first = [data.draw(st.integers(0, n - 1)) for n in shape]
    update = normal(2, *x[tuple(slice(f, None, 2) for f in first)].shape)
    changed = x.copy()
    changed[tuple(slice(f, None, 2) for f in first)] = update

    def build(x, update):
        yield mb.slice_by_index(
            x=x, begin=begin, end=end, stride=stride, begin_mask=masks[0], end_mask=masks[1], squeeze_mask=masks[2]
        )
        yield mb.slice_by_size(x=x, begin=first, size=size)
        yield mb.slice_update(
            x=x, update=update, begin=first, end=[0] * rank, stride=[2] * rank, end_mask=[True] * rank
        )

    by_size = x[tuple(slice(f, None if s == -1 else f + s) for f, s in zip(first, size, strict=True))]
    wanted = [np.ascontiguousarray(x[numpy_slices]), by_size, changed]
    check(build, {"x": x, "update": update}, wanted, ios=18)


@few
@given(block=st.integers(1, 3), c=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3))
def test_blocks(check, mb, normal, block, c, h, w):
    deep, wide = normal(1, 2, c * block**2, h, w), normal(2, 2, c, h * block, w * block)
    many = normal(3, 2 * block**2, c, h, w)
    d, s = torch.from_numpy(deep), torch.from_numpy(wide)
    # TensorFlow's depth_to_space has the block's cell before the channel; PyTorch's pixel_shuffle after it.
    reordered = d.reshape(2, block**2, c, h, w).transpose(1, 2).reshape(d.shape)
    shuffled = F.pixel_unshuffle(s, block)
    backwards = shuffled.reshape(2, c, block**2, h, w).transpose(1, 2).reshape(shuffled.shape)
    batches = torch.cat([s[..., i::block, j::block] for i in range(block) for j in range(block)])
    joined = torch.empty(2, c, h * block, w * block)
    for index, part in enumerate(torch.from_numpy(many).split(2)):
        joined[..., index // block :: block, index % block :: block] = part

    def build(deep, wide, many):
        yield mb.pixel_shuffle(x=deep, upscale_factor=block)
        yield mb.pixel_unshuffle(x=wide, downscale_factor=np.uint32(block))
        yield mb.depth_to_space(x=deep, block_size=block)
        yield mb.space_to_depth(x=wide, block_size=block)
        yield mb.space_to_batch(x=wide, block_shape=[block, block], paddings=[[0, 0], [0, 0]])
        yield mb.batch_to_space(x=many, block_shape=[block, block], crops=[[0, 0], [0, 0]])

    expected = [F.pixel_shuffle(d, block), shuffled, F.pixel_shuffle(reordered, block), backwards, batches, joined]
    check(build, {"deep": deep, "wide": wide, "many": many}, expected)


@few
@given(shape=st.lists(st.integers(2, 4), min_size=2, max_size=4).map(tuple), data=st.data())
def test_padding(check, mb, normal, shape, data):
    x = normal(1, *shape)
    count = data.draw(st.integers(1, 2))
    pad = [data.draw(st.integers(0, 1)) for _ in range(2 * count)]
    pairs = [(0, 0)] * (len(shape) - count) + list(zip(pad[::2], pad[1::2], strict=True))

    def build(x):
        yield mb.pad(x=x, pad=pad, mode="constant", constant_val=np.float32(1.5))
        yield mb.pad(x=x, pad=pad, mode="reflect")
        yield mb.pad(x=x, pad=pad, mode="replicate")

    expected = [np.pad(x, pairs, constant_values=1.5), np.pad(x, pairs, mode="reflect"), np.pad(x, pairs, mode="edge")]
    check(build, {"x": x}, expected)


@few
@given(shape=st.lists(st.integers(2, 4), min_size=2, max_size=3).map(tuple), data=st.data())
def test_gathering(check, mb, normal, shape, data):
    x, rank = normal(1, *shape), len(shape)
    axis = data.draw(st.integers(-rank, rank - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    indices = rng.integers(0, shape[axis], data.draw(st.sampled_from([(3,), (2, 2)]))).astype(np.int32)
    along_shape = [2 if i == axis % rank else n for i, n in enumerate(shape)]
    along = rng.integers(0, shape[axis], along_shape).astype(np.int32)
    depth = data.draw(st.integers(1, rank))
    coordinates = np.stack([rng.integers(0, n, (2, 3)) for n in shape[:depth]], -1).astype(np.int32)
    batched = rng.integers(0, shape[1], (shape[0], 2)).astype(np.int32)
    per_batch = rng.integers(0, shape[1], (shape[0], 3, 1)).astype(np.int32)

    def build(x, indices, along, coordinates, batched, per_batch):
        yield mb.gather(x=x, indices=indices, axis=axis)
        yield mb.gather(x=x, indices=batched, axis=1, batch_dims=1)
        yield mb.gather_along_axis(x=x, indices=along, axis=axis)
        yield mb.gather_nd(x=x, indices=coordinates)
        yield mb.gather_nd(x=x, indices=per_batch, batch_dims=1)

    expected = [
        np.take(x, indices, axis),
        np.stack([row[i] for row, i in zip(x, batched, strict=True)]),
        np.take_along_axis(x, along, axis),
        x[tuple(np.moveaxis(coordinates, -1, 0))],
        np.stack([row[i[:, 0]] for row, i in zip(x, per_batch, strict=True)]),
    ]
    inputs = {"x": x, "indices": indices, "along": along, "coordinates": coordinates}
    check(build, inputs | {"batched": batched, "per_batch": per_batch}, expected)


@few
@given(mode=st.sampled_from(["update", "add", "sub", "mul", "div", "max", "min"]), axis=st.integers(-2, 1))
def test_scattering(check, mb, normal, mode, axis):
    x = np.abs(normal(1, 4, 5)) + np.float32(0.5)
    combine = {
        "update": lambda _, new: new,
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
    }[mode]
    where = np.array([2, 0], np.int32)
    updates = np.abs(normal(2, *(2 if i == axis % 2 else n for i, n in enumerate(x.shape)))) + np.float32(0.5)
    pairs, values = np.array([[0, 1], [3, 4], [2, 2]], np.int32), np.array([0.5, 3, 2], np.float32)
    rows = np.moveaxis(x.copy(), axis, 0)
    for i, row in zip(where, np.moveaxis(updates, axis, 0), strict=True):
        rows[i] = combine(rows[i], row)
    points = x.copy()
    for (i, j), value in zip(pairs, values, strict=True):
        points[i, j] = combine(points[i, j], value)
    along = np.broadcast_to(np.expand_dims(where, 1 - axis % 2), updates.shape).astype(np.int32)

    def build(x, where, updates, pairs, values, along):
        yield mb.scatter(data=x, indices=where, updates=updates, axis=axis, mode=mode)
        yield mb.scatter_along_axis(data=x, indices=along, updates=updates, axis=axis, mode=mode)
        yield mb.scatter_nd(data=x, indices=pairs, updates=values, mode=mode)

    wanted = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
    inputs = {"x": x, "where": where, "updates": updates, "pairs": pairs, "values": values, "along": along}
    check(build, inputs, [wanted, wanted, points])


@few
@given(shape=st.lists(st.integers(2, 5), min_size=1, max_size=3).map(tuple), up=st.booleans(), data=st.data())
def test_sorting(check, mb, normal, shape, up, data):
    x = normal(1, *shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(1, shape[axis]))
    t = torch.from_numpy(x)

    def build(x):
        yield mb.argsort(x=x, axis=axis, ascending=up)
        yield from mb.topk(x=x, k=k, axis=axis, ascending=up)

    top = t.topk(k, axis, largest=not up)
    check(build, {"x": x}, [t.argsort(axis, descending=not up), top.values, top.indices])


def test_values_that_are_made(check, mb):
    x = np.array([[2, 0], [1, 3]], np.int32)
    scalar = np.array([7.0], np.float32)

    def build(x, scalar):
        yield mb.one_hot(indices=x, one_hot_vector_size=4, axis=1, on_value=np.float32(2), off_value=np.float32(-1))
        shape = mb.shape(x=mb.concat(values=[x, x], axis=0))
        yield mb.fill(shape=shape, value=np.float32(0.5))
        yield mb.range_1d(start=np.float32(1), end=mb.squeeze(x=scalar), step=np.float32(2.5))
        yield mb.non_zero(x=x)
        yield mb.reverse_sequence(x=mb.cast(x=x, dtype="fp32"), lengths=np.array([2, 1], np.int32), seq_axis=1)

    hot = np.where(np.eye(4)[x].transpose(0, 2, 1) > 0, 2.0, -1.0)
    wanted = [hot, np.full((4, 2), 0.5), np.arange(1, 7, 2.5), np.argwhere(x), [[0, 2], [1, 3]]]
    check(build, {"x": x, "scalar": scalar}, wanted)


def test_reshaping_like_other_tensors(check, mb, normal):
    x, a, b = normal(1, 6, 20), normal(2, 2, 3, 4), normal(3, 1, 5, 4)

    def build(x, a, b):
        yield mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))

    check(build, {"x": x, "a": a, "b": b}, [x.reshape(2, 3, 5, 4)])


def test_a_position_beyond_the_end_is_refused(run_mil, mb, normal):
    def build(x, i):
        return [mb.gather(x=x, indices=i, axis=0, name="lookup")]

    with pytest.raises(CheckpointError, match=r"'gather' \(at 'lookup'\).*index 3 is outside 0 … 2"):
        run_mil(build, {"x": normal(1, 3, 2), "i": np.array([0, 3], np.int32)})
