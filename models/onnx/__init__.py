"""ONNX files: what they take (`graph`), what they multiply (`layers`), and what they give in float64 (`reference`)."""
