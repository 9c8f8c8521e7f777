"""Draw with ONNX Runtime alone: onnxruntime_only.py [MODEL]."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

path = "out/cm_cifar10-onnx-fp16/model.onnx"
session = onnxruntime.InferenceSession(sys.argv[1] if sys.argv[1:] else path)
shape = session.get_inputs()[0].shape  # noise: (1, C, H, W)
random = np.random.default_rng(0)

pictures = []
for label in range(3):  # aeroplane, car, bird
    noise = random.standard_normal(shape, dtype=np.float32)
    inputs = {"noise": noise, "label": np.array([label])}
    (image,) = session.run(["image"], inputs)  # in [-1, 1]
    pictures.append(image[0].transpose(1, 2, 0))

row = np.concatenate(pictures, axis=1)
Image.fromarray(np.uint8((row + 1) * 127.5 + 0.5)).save("classes.png")
