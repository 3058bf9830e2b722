"""Many trainings side by side, resumable, under one parent run, and then their comparison.

- `study`: what is left to do, from the parent run to the promotion of the best models.
- `workers`: the processes of this machine that train.
- `progress`: how far the study is, on the terminal and in the parent run.

The command line uses `study`.
"""
