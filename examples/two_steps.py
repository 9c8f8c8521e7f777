"""Two evaluations in one file: better pictures, and a second noise to feed. two_steps.py [CHECKPOINT]."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

import cmexport

model = cmexport.load(sys.argv[1] if sys.argv[1:] else None)
artifact = cmexport.export(model, "onnx", steps=2, batch=4, label=1, out="out-two-steps")
print("levels evaluated:", artifact.manifest.sampling.sigmas)

session = onnxruntime.InferenceSession(artifact.folder / "model.onnx")
shapes = {i.name: i.shape for i in session.get_inputs()}  # noise (4, C, H, W), renoise (1, 4, C, H, W)
random = np.random.default_rng(0)
noises = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
(images,) = session.run(["image"], noises)
row = np.concatenate(images.transpose(0, 2, 3, 1), axis=1)
Image.fromarray(np.uint8((row + 1) * 127.5 + 0.5)).save("two_steps.png")
