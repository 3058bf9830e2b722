"""One tracked training: the loop, what is measured, what a run logs.

- `loop`: epochs, learning rate, which epoch is best. No MLflow, no files.
- `run`: one training as one MLflow run, from the parameters to the registered model.
- `metrics`: accuracy, F1, loss, and how much of a pose is left after the transformer.
- `poses`: what a transformer makes of one digit in eight poses.

`study/` and the command line use `run`; `evaluate.py` uses `metrics`.
"""
