"""Models as files that other runtimes read: ONNX, torch.export, safetensors."""

from zoo.export.parts import Part, parts
from zoo.export.writing import FORMATS, export

__all__ = ["FORMATS", "Part", "export", "parts"]
