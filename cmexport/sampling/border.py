"""The border of a sampler's graph: which inputs a request leaves to the app, and what comes out."""

from __future__ import annotations

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.editing import check_editing
from cmexport.sampling.evaluations import Evaluations
from cmexport.sampling.transforms import check_transform, transform_of
from cmexport.signature import Signature, known


def border_of(model: ConsistencyModel, plan: Evaluations, request: SampleRequest) -> Signature:
    """Names, shapes, dtypes and laws for this request, inputs in the order of `SamplerGraph.forward`.

    Raises:
        UsageError: a label for an unconditional model, a label out of range, a batch below 1, or a task that doesn't
            fit the model.
    """
    classes = model.classes
    if request.batch < 1:
        raise UsageError(f"--batch {request.batch}: must be at least 1")
    if request.label is not None:
        if classes is None:
            taken = "is unconditional and takes no label" if model.worded is None else "takes a prompt, no label"
            raise UsageError(f"--label {request.label}: this model {taken}")
        if not 0 <= request.label < classes:
            raise UsageError(f"--label {request.label}: out of range, this model has labels 0 to {classes - 1}")
    task = check_editing(model, request, plan.steps)
    picture = (request.batch, model.channels, model.space.height, model.space.width)
    inputs = [known.noise(picture)] if task.adds_noise else []
    if plan.renoised:
        inputs.append(known.renoise(plan.renoised, picture))
    for condition in model.conditions:
        # Two conditions may be made of one input.
        if condition.input.name not in {*baked_values(model, request), *(i.name for i in inputs)}:
            inputs.append(condition.input.with_batch(request.batch))
    shown = picture if model.codec is None else model.codec.pictures(picture)
    inputs += task.given(shown, plan.sigmas[0])
    output = known.finished(
        shown,
        inputs,
        as_bytes=request.output == "uint8",
        clamp=plan.clamp or model.codec is not None,
        put_back=task.put_back,
    )
    check_transform(model, request, looped=plan.looped)
    transform = transform_of(model, request)
    return Signature(tuple(inputs), output if transform is None else transform.output(output))


def baked_values(model: ConsistencyModel, request: SampleRequest) -> dict[str, float]:
    """Values that are part of the graph, by the names of the inputs that they replace."""
    baked: dict[str, float] = {}
    if request.label is not None and model.choice is not None:
        baked[model.choice.name] = request.label
    for condition in model.conditions:
        if condition.usual is not None and not request.guidance_input:
            baked[condition.input.name] = condition.usual if request.guidance is None else request.guidance
        if condition.input.worded and request.prompt is not None:
            baked[condition.input.name] = 0
    return baked
