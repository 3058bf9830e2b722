"""Everything MLflow. No other package imports it.

- `store`: the tracking store: check it, create it, say its errors in a line.
- `experiments`: which experiment a command works in.
- `runs`: open a run, log to it, close it whatever happens.
- `recorded`: find runs, and read their metrics and files.
- `result_files`: the formats of the files of a run that are read back; it does not import mlflow.
- `registry`: the registered model, its versions and aliases; models to predict with.
- `links`: addresses in the MLflow UI, and the UI itself.
- `vocabulary`: the names of tags, metrics and artifacts; it does not import mlflow.

Any of them may be used by other packages.
"""
