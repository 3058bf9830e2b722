"""MNIST as tensors, and what may happen to its digits.

- `mnist`: the verified files, as uint8 tensors.
- `batches`: shuffled batches.
- `warps`: digits in random poses, and augmentation.
- `distorted`: the data sets made of these, and their normalization.

Any of them may be used by `training/` and `evaluate.py`.
"""
