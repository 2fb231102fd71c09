"""DeepFace's own HTTP API on a free port, which is printed; run by an interpreter that has ``deepface`` and TensorFlow.

    python deepface_server.py FOLDER

Nothing is downloaded: DeepFace's FaceNet is filled with random weights, which are put where it looks for its
own. All else is DeepFace's: routes, reading of images, alignment, the network, the answer.
"""

import os
import sys
from pathlib import Path

weights = Path(sys.argv[1]) / ".deepface" / "weights"
weights.mkdir(parents=True)
os.environ.update(DEEPFACE_HOME=sys.argv[1], TF_CPP_MIN_LOG_LEVEL="3", TF_USE_LEGACY_KERAS="1")

import tensorflow  # noqa: E402
from deepface.api.src.app import create_app  # noqa: E402
from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

tensorflow.random.set_seed(0)
InceptionResNetV1(dimension=128).save_weights(str(weights / "facenet_weights.h5"))
server = make_server("127.0.0.1", 0, create_app())
print(f"listening on {server.port}", flush=True)
server.serve_forever()
