"""The values of flags that are not fields of the recipe. This file imports nothing, so `--help` takes no time."""

CACHE_PLACES = ("off", "ram", "disk")  # where training keeps resized images
PRECISIONS = ("off", "bf16", "fp16")  # of the model; `runtime.device` has the types
FLOAT_TYPES = ("float16", "float32")  # of saved probabilities
LOWEST_OPSET = 18  # the lowest ONNX version that PyTorch's exporter writes
