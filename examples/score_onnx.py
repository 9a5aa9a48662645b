"""Score pictures with an exported model: python score_onnx.py parts.onnx PICTURE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path, form):
    """Return one picture as the model takes it, uint8 (channels, size, size)."""
    try:
        image = ImageOps.exif_transpose(Image.open(path))
    except Exception as error:  # damaged files cause errors of any class
        raise ValueError(f"{path}: {error}") from None
    if image.mode.startswith("I"):  # grey with 16 bits
        image = Image.fromarray(((np.asarray(image) + 128) // 257).astype(np.uint8))
    image = image.convert("L" if form["channels"] == 1 else "RGB")
    if form["crop"]:
        side = min(image.size)
        left, top = (round((length - side) / 2) for length in image.size)
        image = image.crop((left, top, left + side, top + side))
    if form["pad"]:
        image = ImageOps.pad(image, (max(image.size),) * 2)
    image = image.resize((form["size"],) * 2, Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(form["size"], form["size"], -1).transpose(2, 0, 1)


def score(graph, pictures, alpha=None):
    """Yield a dictionary of the outputs for each picture."""
    session = onnxruntime.InferenceSession(graph)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["attractor_ae"])
    inputs = dict(np.load(Path(graph).parent / facts["masks"]))
    inputs["alpha"] = np.array(facts["alpha"] if alpha is None else alpha)
    inputs["images"] = np.stack([prepare(path, facts["preprocessing"]) for path in pictures])
    values = session.run(None, inputs)
    names = [output.name for output in session.get_outputs()]
    for path, *row in zip(pictures, *values, strict=True):
        found = dict(zip(names, row, strict=True))
        yield {"path": path, "class": facts["classes"][found["probabilities"].argmax()], **found}


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        for row in score(sys.argv[1], sys.argv[2:]):
            verdict = "unknown" if row["unknown"] else "known"
            print(f"{verdict:8} p {row['p_value']:<8.3g} {row['class']}  {row['path']}")
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
