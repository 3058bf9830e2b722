"""The values of metrics over the epochs, of one run or of many at once."""

from typing import Any, NamedTuple

import mlflow
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.rest_utils import http_request, verify_rest_response

from pipeline.tracking.patience import waits_for_store
from pipeline.tracking.vocabulary import Metric

# A server takes at most 100 runs; and some web servers read no more than 4,000 characters of an
# address, where the ids of 50 runs take 2,100.
RUNS_AT_ONCE = 50
MOST_VALUES = 25_000  # that a server returns at once; it leaves out the others without saying so


class _Value(NamedTuple):
    """One value of a metric. In the order of the fields, a later value of a step comes later."""

    step: int
    timestamp: int
    value: float


def last_epoch(run_id: str) -> tuple[int, float]:
    """The last epoch that a training run has logged, and its test accuracy.

    Returns:
        (0, 0.0) if it has not logged an epoch.
    """
    history = metric_history(run_id, Metric.TEST_ACCURACY)
    last = max(history, default=0)
    return last, history.get(last, 0.0)


def metric_history(run_id: str, name: str) -> dict[int, float]:
    """A metric's value at each step, in the order of the steps.

    If a step was logged twice, it has the later value.
    """
    return _by_step(_values_of_run(run_id, name))


def metric_histories(run_ids: list[str], name: str) -> dict[str, dict[int, float]]:
    """The `metric_history` of each run, by run id.

    A database and a tracking server are asked for many runs at once.
    """
    found: dict[str, list[_Value]] = {}
    for start in range(0, len(run_ids), RUNS_AT_ONCE):
        found |= _values_of_runs(run_ids[start : start + RUNS_AT_ONCE], name)
    return {run_id: _by_step(values) for run_id, values in found.items()}


def _by_step(values: list[_Value]) -> dict[int, float]:
    return {value.step: value.value for value in sorted(values, key=lambda value: value[:2])}


@waits_for_store("reading metrics")
def _values_of_run(run_id: str, name: str) -> list[_Value]:
    history = mlflow.MlflowClient().get_metric_history(run_id, name)
    return [_Value(metric.step, metric.timestamp, metric.value) for metric in history]


@waits_for_store("reading metrics")
def _values_of_runs(run_ids: list[str], name: str) -> dict[str, list[_Value]]:
    """The values of a metric, by run id; in one request if the store can answer it."""
    store = mlflow.MlflowClient()._tracking_client.store
    found: dict[str, list[_Value]] = {run_id: [] for run_id in run_ids}
    if hasattr(store, "get_metric_history_bulk"):  # a database
        for metric in store.get_metric_history_bulk(run_ids, name, max_results=None):
            found[metric.run_id].append(_Value(metric.step, metric.timestamp, metric.value))
        return found
    answer = _answer_of_server(store, run_ids, name) if isinstance(store, RestStore) else None
    if answer is None:
        return {run_id: _values_of_run(run_id, name) for run_id in run_ids}
    for entry in answer:
        value = _Value(entry["step"], entry["timestamp"], float(entry["value"]))
        found[entry["run_id"]].append(value)
    return found


def _answer_of_server(
    store: RestStore, run_ids: list[str], name: str
) -> list[dict[str, Any]] | None:
    """What the route answers that the MLflow UI draws its charts from.

    Returns:
        None if the server does not have the route, or has left out values.
    """
    route = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    asked = [("metric_key", name), *(("run_id", run_id) for run_id in run_ids)]
    response = http_request(store.get_host_creds(), route, "GET", params=asked)
    if response.status_code == 404:
        return None
    values = verify_rest_response(response, route).json()["metrics"]
    return values if len(values) < MOST_VALUES else None
