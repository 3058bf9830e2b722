"""One tracked training: the loop, what is measured, what a run logs.

- `run`: one training as one MLflow run, from the parameters to the registered model.
- `loop`: epochs, learning rate, which epoch is best. No MLflow, no files.
- `optimization`: the optimizer, the schedule of the learning rate, an average of the weights.
- `recorder`: what a run keeps of each epoch.
- `collapse`: whether a training has collapsed.
- `checkpoint`: the file from which an interrupted run continues.
- `log_model`: what a run logs of the best epoch's model.
- `unfinished`: single trainings that were interrupted: they go on, or are closed.
- `network`: the network that the parameters of a run describe.
- `metrics`: accuracy, F1 and loss.
- `pose_deviation`: how much of a pose is left after the transformer.
- `poses`: what a transformer makes of one digit in eight poses.

The command line uses `run`; `study/` uses `run`, `network` and `checkpoint`; `evaluate.py` uses
`metrics` and the size of a batch of `loop`.
"""
