"""Spatial transformer networks on MNIST, as experiments that MLflow tracks; see README.md.

Packages: `data`, `models`, `training`, `study`, `comparison`, `figures` and `tracking`; the
docstring of each lists its modules. Modules beside them:

- `cli`: the commands: parse, call one function, print.
- `params`: the parameters of a run and of a study: types, ranges, defaults, help.
- `presets`: YAML presets, and their precedence under the command line.
- `names`: the names of protocols, runs and best models.
- `grids`: theta to a sampling grid: the functions of the transformations.
- `machine`: what a run ran on: versions, CPU, commit.
- `evaluate`: score a registered model on its test set again.
- `predict`: read image files, and tell the digits that they show.
- `errors`: the one exception whose text people see.
"""
