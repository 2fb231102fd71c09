"""Golden embeddings of the original SFace, by ONNX Runtime: python tests/recognition/make_sface_golden.py ONNX_FILE"""

import json
import sys
from pathlib import Path

import numpy as np

from facesieve.faces import Detector, Face, align
from facesieve.images import read_photo, to_photo
from facesieve.recognition.convert_sface import ORIGINAL_SHA256, read_original

GOLDEN = Path(__file__).with_name("sface_golden.json")
SAMPLES = Path(__file__).parents[2] / "samples"


def synthetic():
    """Named images (112, 112, 3), uint8, the same on every machine; no channel is like another."""
    y, x = np.mgrid[:112, :112]
    squared = (x - 56) ** 2 + (y - 56) ** 2
    return {
        "ramps": np.stack([2 * x, 2 * y, x + y], axis=-1).astype(np.uint8),
        "rings": np.stack([squared // 24, squared // 48, 255 - squared // 32], axis=-1).astype(np.uint8),
        "noise": np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8),  # a frozen stream
    }


def aligned(path, landmarks):
    """A picture's face, by its five landmarks, as an aligned crop (112, 112, 3), uint8."""
    return to_photo(align(read_photo(path), Face((0, 0, 1, 1), np.array(landmarks), 1.0), 112))


def original_embedder(data):
    """The original's bytes as a function of one RGB crop (112, 112, 3); returns a unit row (128,)."""
    import onnxruntime  # only where the original is

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the file lists its weights as inputs, which warns once for each
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def embed(crop):
        (row,) = session.run(["fc1"], {"data": crop.transpose(2, 0, 1)[None].astype(np.float32)})[0]
        return row.astype(np.float64) / np.linalg.norm(row)

    return embed


def main(onnx_file):
    embed = original_embedder(read_original(Path(onnx_file)))
    found = {path.name: Detector().detect(read_photo(path))[0] for path in sorted(SAMPLES.glob("hopper-*.jpg"))}
    landmarks = {name: face.landmarks.round(3).tolist() for name, face in found.items()}
    pictures = {name: aligned(SAMPLES / name, points) for name, points in landmarks.items()}
    golden = {
        "made_by": "python tests/recognition/make_sface_golden.py face_recognition_sface_2021dec.onnx",
        "original_sha256": ORIGINAL_SHA256,
        "synthetic": {name: embed(crop).round(6).tolist() for name, crop in synthetic().items()},
        "pictures": {name: embed(crop).round(6).tolist() for name, crop in pictures.items()},
        "landmarks": landmarks,
    }
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
