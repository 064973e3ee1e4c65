"""Signed evidence, in bits and in the pixels of the photograph, from a deployed .onnx image classifier."""
