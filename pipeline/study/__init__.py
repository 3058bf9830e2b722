"""Many trainings side by side, resumable, under one parent run, and then their comparison.

- `plan`: what a study consists of, from its parameters. No torch, no MLflow.
- `study`: a study from its parent run to its last round of trainings.
- `conclusion`: what a study comes to: the comparison of its runs, and the best models.
- `resume`: how a study is continued: its lock, its checkpoints, what is left to train.
- `executor`: a training as a task, and what an executor is, which trains tasks.
- `local_processes`: the executor that trains in processes of this machine.
- `ray_tasks`: the executor that trains on Ray, locally or on a cluster.
- `progress`: how far the study is, on the terminal and in the parent run.

The command line uses `plan` and `study`.
"""
