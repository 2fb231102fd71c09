"""What is written where a thing is chosen by name, in words: for helps and messages, so without any import."""

EMBEDDER = "sface, dlib, a FaceNet folder or .pt file, an .onnx recogniser, or package.module:object"
RUNTIME = "torch, or package.module:object"
