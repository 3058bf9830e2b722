"""Pictures: arrays in, matplotlib Figures or image files out. Nothing is shown on a screen.

- `confusion`: confusion matrices.
- `of_run`: learning curves, and digits before and after the transformer.
- `animation`: eight poses of a digit, from epoch to epoch, as a GIF.
- `gallery`: eight poses of a digit and what the transformer of each group makes of them.
- `of_comparison`: accuracies and learning curves of groups of runs.
- `of_predictions`: what a model says about image files.

Any of them may be used by other packages.
"""
