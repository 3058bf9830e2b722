"""A tracking server that several people or machines share: `make server`; see docs/server.md.

    python -m server --folder server-data --port 5000

- `postgres`: PostgreSQL with its data in a folder of its own, reached through a private socket.
- `tracking`: `mlflow server` in front of it, which also keeps the artifacts.

It is no part of the pipeline: the pipeline knows the server by its address, `MLFLOW_TRACKING_URI`.
"""
