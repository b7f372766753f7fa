"""Lowering: each layer as the calls that make it in Keras and in PyTorch, without loading either.

The same calls are built for training and rendered as source. ONNX's operators hold the weights
themselves: formats/onnx/lowering.py makes them.
"""
