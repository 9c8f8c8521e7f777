"""Fill a hole in a picture, here in one that the model has drawn: inpaint.py [CHECKPOINT]."""

import sys

import numpy as np
from PIL import Image

import cmexport

model = cmexport.load(sys.argv[1] if sys.argv[1:] else None)
editor = cmexport.export(model, "onnx", task="inpaint", steps=4, out="out")
height, width = model.space.height, model.space.width

mask = np.zeros((1, height, width), dtype=np.float32)  # 1 = keep: here nothing
blank = np.zeros((3, height, width), dtype=np.float32)  # (C, H, W), [-1, 1]
image = editor.sample(seed=3, label=1, image=blank, mask=mask)[0]

mask[:] = 1
mask[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 0
painted = editor.sample(seed=0, count=3, label=1, image=image, mask=mask)

row = np.concatenate([image * mask, *painted], axis=2).transpose(1, 2, 0)
Image.fromarray(np.uint8((row + 1) * 127.5 + 0.5)).save("painted.png")
