"""On real SQLite stores."""

import json
import shutil
import zipfile
from contextlib import suppress

import mlflow
import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.tracking.recorded import (
    artifact_bytes,
    recorded_run,
    runs_with_tag,
    training_runs,
)
from pipeline.tracking.registry import (
    Candidate,
    load_model,
    promote,
    register,
    registered_version,
)
from pipeline.tracking.runs import create_nested_run, for_note, open_run, reopen_run
from pipeline.tracking.store import ensure_store


def status_of(run_id):
    return mlflow.get_run(run_id).info.status


def test_a_run_lands_in_the_projects_experiment_with_what_it_was_given(store):
    with open_run("name", "what it is", params={"lr": 0.1}, tags={"stn.x": "y"}) as run:
        assert status_of(run.run_id) == "RUNNING"
        run.log_metrics({"train_loss": 2.0}, step=1)
        assert mlflow.get_run(run.run_id).data.metrics == {"train_loss": 2.0}
    stored = mlflow.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "name"
    assert stored.data.params == {"lr": "0.1"}
    assert stored.data.tags["stn.x"] == "y"
    assert stored.data.tags["mlflow.note.content"] == "what it is"
    experiment = mlflow.get_experiment(stored.info.experiment_id)
    assert experiment.name == "stn-mnist"
    assert "mlflow.note.content" in experiment.tags


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt, "KILLED"),
        (ValueError, "FAILED"),
        (PipelineError, "FAILED"),
        (SystemExit, "FAILED"),
    ],
)
def test_a_run_never_stays_running(store, error, status):
    with pytest.raises(error), open_run("name", "") as run:
        raise error("no")
    assert status_of(run.run_id) == status


def test_a_run_that_fails_as_it_opens_does_not_stay_running_or_finish(store):
    with (
        pytest.raises(mlflow.MlflowException, match="maximum length"),
        open_run("name", "", tags={"x" * 999: ""}),
    ):
        pass
    (run,) = mlflow.search_runs(experiment_names=["stn-mnist"], output_format="list")
    assert run.info.status == "FAILED"


def test_a_name_that_somebody_chose_stays_and_one_that_mlflow_made_up_does_not(store, monkeypatch):
    experiment_id = mlflow.create_experiment("stn-mnist")
    for chosen, expected in [("lr-sweep-3", "lr-sweep-3"), (None, "name")]:
        run = mlflow.MlflowClient().create_run(experiment_id, run_name=chosen)
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        with open_run("name", ""):
            pass
        assert mlflow.get_run(run.info.run_id).info.run_name == expected


def open_as_mlflow_run_does(monkeypatch, experiment_id, **params):
    run = mlflow.MlflowClient().create_run(experiment_id)
    for key, value in params.items():
        mlflow.MlflowClient().log_param(run.info.run_id, key, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return run.info.run_id


@pytest.mark.parametrize("has_a_store", [True, False])
def test_a_store_that_lacks_the_run_of_mlflow_is_refused(store, monkeypatch, has_a_store):
    """As where a relative path leads to another folder than that of the caller."""
    name = "mlflow.db" if has_a_store else "none.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/{name}")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    def start():
        ensure_store()
        with open_run("name", ""):
            pass

    with pytest.raises(PipelineError, match="which lacks the run that `mlflow run` has opened"):
        start()
    assert not (store / "none.db").exists()
    assert mlflow.active_run() is None


def test_mlflows_run_is_taken_over_and_its_params_are_not_logged_again(store, monkeypatch):
    experiment_id = mlflow.create_experiment("stn-mnist")
    run_id = open_as_mlflow_run_does(monkeypatch, experiment_id, lr="0.010")
    with open_run("name", "", params={"lr": 0.01, "epochs": 3}) as run:
        assert run.run_id == run_id
    assert mlflow.get_run(run_id).data.params == {"lr": "0.010", "epochs": "3"}
    with open_run("the next", "") as run:
        assert run.run_id != run_id


def test_an_experiment_that_mlflow_was_told_is_used(store, monkeypatch):
    experiment_id = mlflow.create_experiment("elsewhere")
    run_id = open_as_mlflow_run_does(monkeypatch, experiment_id)
    with open_run("name", "") as run:
        assert (run.run_id, run.experiment_id) == (run_id, experiment_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by variable")
    with open_run("name", "") as run:
        assert mlflow.get_experiment(run.experiment_id).name == "by variable"


@pytest.mark.parametrize("told", [None, "mine"])
def test_mlflows_run_in_another_experiment_points_to_the_right_one(store, monkeypatch, told):
    run_id = open_as_mlflow_run_does(monkeypatch, "0", lr="0.010")
    with open_run("name", "", experiment=told, params={"lr": 0.01}) as run:
        assert run.run_id != run_id
    assert mlflow.get_experiment(run.experiment_id).name == (told or "stn-mnist")
    assert mlflow.get_run(run.run_id).data.params == {"lr": "0.01"}
    assert run.run_id in mlflow.get_run(run_id).data.tags["mlflow.note.content"]


def test_a_run_that_was_interrupted_is_continued_under_its_name(store, monkeypatch):
    with open_run("study", "") as parent:
        run_id = create_nested_run(parent, "conv2d seed=0", {"stn.study_run": "conv2d seed=0"})
    with (
        pytest.raises(ValueError, match="no"),
        reopen_run(run_id, "first", params={"lr": 0.1}, tags={}),
    ):
        raise ValueError("no")
    assert mlflow.get_run(run_id).data.tags["stn.error"] == "ValueError: no"
    opened = open_as_mlflow_run_does(monkeypatch, "0")
    with reopen_run(run_id, "second", params={"lr": 0.10, "seed": 0}, tags={"stn.x": "y"}) as run:
        assert (run.run_id, run.experiment_id) == (run_id, parent.experiment_id)
        assert status_of(run_id) == "RUNNING"
    stored = mlflow.get_run(run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "conv2d seed=0"
    assert stored.data.params == {"lr": "0.1", "seed": "0"}
    assert stored.data.tags["stn.x"] == "y"
    assert stored.data.tags["mlflow.note.content"] == "second"
    assert stored.data.tags["mlflow.parentRunId"] == parent.run_id
    assert "stn.error" not in stored.data.tags
    assert run_id in mlflow.get_run(opened).data.tags["mlflow.note.content"]


def test_a_description_ends_with_a_whole_block_and_refers_to_the_rest():
    blocks = ["a" * 3000, "b" * 3000, "c" * 3000]
    short = for_note("\n\n".join(blocks), "comparison.md")
    assert short == "\n\n".join([*blocks[:2], "The rest is in `comparison.md`."])
    assert for_note("short", "comparison.md") == "short"


def note_of(experiment):
    return mlflow.get_experiment_by_name(experiment).tags["mlflow.note.content"]


def test_an_experiment_keeps_its_view_and_description_up_to_date(store):
    with open_run("name", "") as run:
        pass
    assert f"/#/experiments/{run.experiment_id}/runs?" in note_of("stn-mnist")
    tags = mlflow.get_experiment(run.experiment_id).tags
    view = json.loads(tags["mlflow.sharedViewState.results"])
    assert "metrics.`best_test_accuracy`" in json.loads(view["state"])["selectedColumns"]

    client = mlflow.MlflowClient()  # as an earlier version of the project has left them
    client.set_experiment_tag(run.experiment_id, "mlflow.sharedViewState.results", "{}")
    question, rest = note_of("stn-mnist").split(" See the ")
    without_links = "\n\n".join([question, rest.split("\n\n")[1]])
    client.set_experiment_tag(run.experiment_id, "mlflow.note.content", without_links)
    with open_run("name", ""):
        pass
    assert mlflow.get_experiment(run.experiment_id).tags == tags


def test_another_machine_may_be_faster_to_describe_the_experiment(store, monkeypatch):
    set_tag = mlflow.MlflowClient.set_experiment_tag
    refused = []

    def after_another(client, *tag):
        set_tag(client, *tag)
        if not refused:  # as a server does whose database has got the same tag meanwhile
            refused.append(tag)
            raise mlflow.MlflowException("UNIQUE constraint failed: experiment_tags.key")

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", after_another)
    with open_run("name", ""):
        pass
    assert refused
    assert "See the [results]" in note_of("stn-mnist")


def test_a_description_that_somebody_wrote_stays(store):
    mlflow.MlflowClient().create_experiment("mine", tags={"mlflow.note.content": "my words"})
    with open_run("name", "", experiment="mine"):
        pass
    assert note_of("mine") == "my words"
    assert "mlflow.sharedViewState.results" in mlflow.get_experiment_by_name("mine").tags


def test_a_deleted_experiment_is_named(store):
    mlflow.delete_experiment(mlflow.create_experiment("stn-mnist"))
    with pytest.raises(PipelineError, match="stn-mnist was deleted"), open_run("n", ""):
        pass


def test_what_a_run_logged_is_read_back(store):
    with open_run("conv2d seed=0", "", tags={"stn.protocol": "x"}) as run:
        for step, accuracy in ((1, 0.5), (3, 0.7), (2, 0.6), (1, 0.55)):  # epoch 1 was repeated
            run.log_metrics({"test_accuracy": accuracy}, step=step)
        run.log_artifacts({"notes.txt": "ä\n"})
    (recorded,) = training_runs("stn-mnist")
    assert (recorded.name, recorded.url) == ("conv2d seed=0", run.url)
    assert recorded.metrics == {"test_accuracy": 0.7}
    assert recorded.last_test_accuracy == 0.7
    assert recorded.is_finished
    assert not recorded.has_results
    assert (recorded.protocol_label, recorded.study) == ("x", "")
    assert recorded_run(run.run_id) == recorded
    assert artifact_bytes(run.run_id, "notes.txt") == "ä\n".encode()
    assert artifact_bytes(run.run_id, "nothing.txt") is None


def logged_model():
    with mlflow.start_run():
        return mlflow.initialize_logged_model("model").model_id


def aliases():
    held = mlflow.MlflowClient().get_registered_model("stn-mnist").aliases
    return {alias: int(version) for alias, version in held.items()}


def test_aliases_move_to_a_better_model_only_and_never_across_selections(store):
    def offer(selection, accuracy, loss, layer):
        candidate = Candidate(selection, accuracy, loss)
        version = register(logged_model(), candidate)
        return version, promote(version, candidate, [f"best-{layer}", "champion"])

    version, news = offer("test", 0.98, 0.10, "conv2d")
    assert version == 1
    assert list(map(str, news)) == ["best-conv2d is now version 1", "champion is now version 1"]
    assert news[1].markdown == "champion is now [version 1](/#/models/stn-mnist/versions/1)"
    (again,) = promote(1, Candidate("test", 0.98, 0.10), ["champion"])
    assert str(again) == "champion is version 1"
    offer("test", 0.97, 0.01, "coordconv2d")  # worse than the champion, first of its layer
    assert aliases() == {"best-conv2d": 1, "champion": 1, "best-coordconv2d": 2}
    offer("test", 0.98, 0.10, "conv2d")  # equal
    offer("test", 0.98, 0.20, "conv2d")  # equal accuracy, higher loss
    assert aliases() == {"best-conv2d": 1, "champion": 1, "best-coordconv2d": 2}
    offer("test", 0.98, 0.09, "coordconv2d")  # equal accuracy, lower loss
    assert aliases() == {"best-conv2d": 1, "champion": 5, "best-coordconv2d": 5}
    _, news = offer("validation 10000", 0.999, 0.01, "conv2d")
    assert str(news[1]) == (
        "champion stays at version 5, selected on another set (test and not validation 10000)"
    )
    assert aliases() == {"best-conv2d": 1, "champion": 5, "best-coordconv2d": 5}
    assert mlflow.MlflowClient().get_registered_model("stn-mnist").description


def test_a_champion_that_somebody_set_by_hand_stays(store):
    client = mlflow.MlflowClient()
    client.create_registered_model("stn-mnist")
    client.create_model_version("stn-mnist", source=f"models:/{logged_model()}")
    client.set_registered_model_alias("stn-mnist", "champion", "1")
    candidate = Candidate("test", 1, 0)
    news = promote(register(logged_model(), candidate), candidate, ["champion"])
    assert "whose accuracy and loss are not known" in str(news[0])
    assert aliases() == {"champion": 1}


@pytest.mark.parametrize("accuracy", [None, "high", "nan"])
def test_a_champion_whose_figures_are_not_known_stays(store, accuracy):
    candidate = Candidate("test", 0.9, 0.1)
    version = register(logged_model(), candidate)
    promote(version, candidate, ["champion"])
    client = mlflow.MlflowClient()
    if accuracy is None:
        client.delete_model_version_tag("stn-mnist", str(version), "stn.accuracy")
    else:
        client.set_model_version_tag("stn-mnist", str(version), "stn.accuracy", accuracy)
    better = Candidate("test", 1, 0)
    (news,) = promote(register(logged_model(), better), better, ["champion"])
    assert "whose accuracy and loss are not known" in str(news)


def test_a_model_that_somebody_registered_again_keeps_the_figures_of_its_training(store):
    candidate = Candidate("test", 0.9, 0.1)
    version = register(logged_model(), candidate)
    client = mlflow.MlflowClient()
    known = client.get_model_version("stn-mnist", str(version))
    client.create_model_version("stn-mnist", source=known.source, run_id=known.run_id)
    assert registered_version(known.run_id) == (version, candidate)
    client.delete_model_version("stn-mnist", str(version))
    assert registered_version(known.run_id) is None


class Shouts:
    """What a pickle may hold: code that runs as it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


class Foreign(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input


def test_a_model_that_would_run_code_of_its_own_is_refused(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # as for its author
    model = Foreign()
    model.shouts = Shouts(store / "heard")
    info = mlflow.pyfunc.log_model(python_model=model, name="model", pip_requirements=["mlflow"])
    mlflow.end_run()
    assert not (store / "heard").exists()
    with pytest.raises(PipelineError, match="no training of this project has logged it"):
        load_model(f"models:/{info.model_id}")
    assert not (store / "heard").exists()


def test_a_file_beside_the_archive_of_a_model_is_not_followed(store, monkeypatch):
    """MLflow imports the module that such a file names, for which the store's folder will do."""
    model_id, _ = log(FromPixels(10, 1))
    (archive,) = store.glob("mlruns/**/model.pt2")
    (store / "evil.py").write_text("open('heard', 'w')")
    monkeypatch.syspath_prepend(store)
    (archive.parent / "model.pth").touch()
    (archive.parent / "pickle_module_info.txt").write_text("evil")
    with pytest.raises(PipelineError, match="no training of this project has logged it"):
        load_model(f"models:/{model_id}")
    assert not (store / "heard").exists()


@pytest.mark.parametrize(
    ("use_pickle", "added", "reason"),
    [
        (True, "model/data/weights/x/data/weights/model_weights_config.json", "holds a pickle"),
        (False, "model/DATA/weights/weight_0", "have the same name"),
    ],
)
def test_an_archive_with_a_pickle_or_with_a_name_twice_is_refused(store, use_pickle, added, reason):
    model_id, _ = log(torch.nn.Sequential(FromPixels(10, 1), torch.nn.Linear(10, 10)))
    (file,) = store.glob("mlruns/**/model.pt2")
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = "model/data/weights/model_weights_config.json"
    config = json.loads(content[name])
    content[added] = content[name] if added.endswith("json") else b"another"
    for tensor in config["config"].values():
        tensor["use_pickle"] = use_pickle
    content[name] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(PipelineError) as error:
        load_model(f"models:/{model_id}")
    assert reason in str(error.value.__cause__)


class FromPixels(torch.nn.Module):
    """The first pixels as probabilities."""

    def __init__(self, answers, zero):
        super().__init__()
        self.answers, self.zero = answers, zero

    def forward(self, images):
        return images.flatten(1)[:, : self.answers].float() / self.zero


def log(model):
    with open_run("a model", "") as run:
        return run.log_model(model.eval(), np.full((4, 1, 28, 28), 9, np.uint8), step=1), run


@pytest.mark.parametrize(("answers", "divisor"), [(10, 0), (3, 1)])
def test_a_model_whose_answers_are_no_probabilities_is_named(store, answers, divisor):
    model_id, _ = log(FromPixels(answers, divisor))
    loaded = load_model(f"models:/{model_id}")
    with pytest.raises(PipelineError, match=f"models:/{model_id} must return 2 times 10"):
        loaded.predict(np.zeros((2, 1, 28, 28), np.uint8))


def test_a_model_can_be_loaded_from_a_folder_with_any_name_and_without_its_run(
    tmp_path, empty_store, monkeypatch
):
    folder = tmp_path / "a#b c%20d?é"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model_id, run = log(FromPixels(10, 1))
    mlflow.MlflowClient()._tracking_client.store._hard_delete_run(run.run_id)  # as `mlflow gc`
    loaded = load_model(f"models:/{model_id}")
    assert (loaded.source_run_id, loaded.selection) == (run.run_id, None)
    assert loaded.predict(np.ones((2, 1, 28, 28), np.uint8)).shape == (2, 10)


def test_a_run_whose_process_is_killed_when_it_opens_can_be_found_by_its_tags(store, monkeypatch):
    def killed(tags):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow, "set_tags", killed)
    with suppress(KeyboardInterrupt), open_run("run", "", tags={"stn.study": "a"}):
        pass
    (run,) = runs_with_tag("stn-mnist", "stn.study", "a")
    assert run.name == "run"


@pytest.mark.parametrize(
    "uri",
    ["models:/stn-mnist@champion", "models:/stn-mnist/7", "models:/m-123", "runs:/1a/model", "no"],
)
def test_no_such_model_is_one_line(store, uri):
    with pytest.raises(PipelineError) as error:
        load_model(uri)
    assert uri in str(error.value)
    assert "\n" not in str(error.value)
