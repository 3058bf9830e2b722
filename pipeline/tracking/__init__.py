"""Everything that uses MLflow. No other package imports mlflow.

- `store`: the tracking store: check it, create it, and report its errors in one line.
- `credentials`: keep users, passwords and tokens out of what is shown.
- `full_disk`: recognize a full disk, and still close the runs on it.
- `patience`: wait for a store that is away for a while.
- `experiments`: which experiment a command works in, and its description.
- `views`: the view that the MLflow UI opens the list of runs in.
- `project_run`: the run that `mlflow run` opens before the command starts.
- `runs`: open a run, log to it, and close it in any case.
- `looks`: the format of the tag that keeps the looks at a study; it does not import mlflow.
- `recorded`: find runs, and read what they have recorded, and their files.
- `histories`: the values of a metric over the epochs, of one run or of many at once.
- `result_files`: the formats of the files of a run that are read back; it does not import mlflow.
- `lease`: a lock in the store, which keeps processes on different machines apart.
- `shared_checkpoints`: checkpoints among a run's artifacts, for studies on several machines.
- `registry`: the registered model, its versions and aliases; models to predict with.
- `links`: addresses of pages in the MLflow UI.
- `ui`: serve the MLflow UI of a local store.
- `vocabulary`: the names of tags, metrics and artifacts; it does not import mlflow.

Any of them may be used by other packages.
"""
