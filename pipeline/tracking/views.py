"""Which columns and charts the MLflow UI shows first in its list of runs.

MLflow's UI keeps a named view in a tag of the experiment, `mlflow.sharedViewState.<key>`. It lists
the view in the menu *Views* of the page, and opens it at the addresses of the page that contain
`viewStateShareKey=<key>`. MLflow does not document the format of the tag; this module follows
MLflow 3.17. An MLflow that does not know the tag opens its own list at the same addresses.
"""

import json
from typing import Any

from pipeline.tracking.vocabulary import Metric, Tag

VIEW = "results"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"

# Sorted by `attributes.start_time`, the UI hides a study's runs under their collapsed parent run.
# `Created` is another name of the same attribute, which the UI does not know: sorted by it, the UI
# shows every run in a row of its own, the newest first.
_ORDER = {"orderByKey": "attributes.`Created`", "orderByAsc": False}

# The columns in their order, and their widths in pixels; the run's name and its time come first.
_COLUMNS = {
    "params.`conv_layer`": 100,
    "params.`seed`": 50,
    f"metrics.`{Metric.BEST_TEST_ACCURACY}`": 128,
    f"metrics.`{Metric.BEST_TEST_F1}`": 88,
    f"metrics.`{Metric.BEST_EPOCH}`": 84,
    "params.`architecture`": 90,
    "params.`dataset`": 80,
    "duration": 80,
    f"tags.`{Tag.PROGRESS}`": 230,
}
_FIRST_COLUMNS = ["attributes.`Run Name`", "runDateAndNestInfo"]

_SECTION, _OTHER_METRICS = "results", "other"


def view_state() -> str:
    """The value of the tag `VIEW_TAG`."""
    state = {
        **_ORDER,
        "selectedColumns": list(_COLUMNS),
        "columnOrder": [*_FIRST_COLUMNS, *_COLUMNS],
        "columnWidths": _COLUMNS,
        "runsHiddenMode": "FIRST_20_RUNS",  # in the charts; the other runs can be switched on
        "compareRunSections": [
            _section(_SECTION, "Results", display=True),
            _section(_OTHER_METRICS, "Model metrics", display=False),
        ],
        "compareRunCharts": [
            _line_chart(Metric.TEST_ACCURACY),
            _line_chart(Metric.TEST_LOSS),
            _line_chart(Metric.TRAIN_LOSS),
            _parallel_chart(),
        ],
    }
    # the times, in milliseconds, are required, and decide the order in the menu only
    return json.dumps(
        {"name": "Results", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    )


def _section(uuid: str, name: str, *, display: bool) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": display,  # else it is collapsed
        "columns": 2,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    return {
        "uuid": f"{kind}-{name}".lower(),
        "type": kind,
        "displayName": name,
        "metricSectionId": _SECTION,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def _line_chart(metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        metric,
        metricKey=metric,
        selectedMetricKeys=[metric],
        lineSmoothness=0,
        xAxisKey="step",
        selectedXAxisMetricKey="",
        xAxisScaleType="linear",
        scaleType="linear",
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _parallel_chart() -> dict[str, Any]:
    return _chart(
        "PARALLEL",
        "layer, seed and accuracy",
        selectedParams=["conv_layer", "seed"],
        selectedMetrics=[Metric.BEST_TEST_ACCURACY],
        showAllRuns=False,
    )
