"""MNIST as tensors, and the data sets made of it.

- `datasets`: the table of data sets; imports no torch.
- `mnist`: the verified files, as uint8 tensors.
- `distortions`: rotated, translated, … digits: a function for each data set.
- `canvas`: digits and clutter on a larger canvas, for two of these.
- `fixed_sets`: test and validation images, distorted once.
- `augmentation`: small random motions of training images.
- `batches`: shuffled batches, and their normalization.
- `photos`: image files of digits, brought to what MNIST looks like.
- `final_poses`: the pose of a digit after a transformer.

`training/`, `evaluate.py` and `predict.py` may use any of them. `params.py` and `comparison/` use
`datasets` only, `study/` uses `mnist` only.
"""
