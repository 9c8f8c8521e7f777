"""Export to ONNX and draw with the file: export_and_draw.py [CHECKPOINT]."""

import sys

import numpy as np
from PIL import Image

import cmexport

# Without a path: the packaged demo model, CIFAR-10.
model = cmexport.load(sys.argv[1] if sys.argv[1:] else None)
# Raises ParityError if the file's pictures are not PyTorch's.
artifact = cmexport.export(model, "onnx", precision="fp16", out="out")
print(artifact.folder, artifact.verify(seeds=16).worst_db)

images = artifact.sample(seed=0, count=4, label=1)  # (4, C, H, W), [-1, 1]
row = np.concatenate(images.transpose(0, 2, 3, 1), axis=1)
Image.fromarray(np.uint8((row + 1) * 127.5 + 0.5)).save("cars.png")
