import pytest

from pipeline.comparison.sequential import Design
from pipeline.errors import PipelineError
from pipeline.names import protocol_label
from pipeline.params import RunParams
from pipeline.presets import resolve
from pipeline.study.plan import resolve_study
from pipeline.training.network import check_network
from tests.conftest import PROJECT


@pytest.fixture
def preset(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_command_line_goes_before_the_preset_and_the_preset_before_the_default(preset):
    params = resolve({"preset": preset("epochs: 7\nlr: 1e-3\n"), "epochs": "9"})
    assert (params.epochs, params.lr, params.batch_size) == (9, 0.001, 64)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epoch": "3"}, ["unknown parameter 'epoch'", "did you mean epochs"]),
        ({"conv_layer": "conv3d"}, ["conv_layer", "conv3d", "conv2d, coordconv2d"]),
        ({"epochs": "0"}, ["epochs", "'0'", ">= 1"]),
        ({"epochs": "-3"}, ["epochs", "'-3'", ">= 1"]),
        ({"epochs": "many"}, ["epochs", "'many'", "an integer"]),
        ({"lr": "nan"}, ["lr", "nan", "a number > 0"]),
        ({"lr": "inf"}, ["lr", "inf"]),
        ({"validation_size": "60000"}, ["validation_size", "<= 59990"]),
        ({"validation_size": "5"}, ["validation_size", "every digit"]),
        ({"momentum": "1"}, ["momentum", "< 1"]),
        ({"preset": "params/none.yaml"}, ["params/none.yaml", "No such file"]),
        ({"preset": "params"}, ["preset params: not a file", "params/replication.yaml"]),
        ({"lr": "0", "epochs": "0"}, ["lr", "epochs"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(given, words):
    with pytest.raises(PipelineError) as error:
        resolve(given)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs:", ["epochs: got None", "an integer >= 1"]),
        ("epoch: 3", ["unknown parameter 'epoch'", "did you mean epochs"]),
        ("preset: other.yaml", ["unknown parameter 'preset'"]),
        ("- epochs", ["parameter: value"]),
        ("epochs: [", ["not YAML"]),
        ("epochs: yes", ["epochs: got 'yes'", "an integer >= 1"]),
        ("epochs: 1:30", ["epochs: got '1:30'", "an integer >= 1"]),
        ("epochs: 010", ["epochs: got 010", "must not begin with 0"]),
        ("epochs: 1\nlr: 1\nepochs: 2", ["epochs is given twice"]),
        ("lr: 2001-99-99", ["lr: got '2001-99-99'"]),
        ("lr: !!int abc", ["lr: got 'abc'"]),
        ("lr: !!python/object/apply:os.getcwd []", ["lr: got []: an empty value"]),
        ("epochs: " + "9" * 5000, ["epochs: got '99999", "…: unable to parse"]),
        ("iterations: 1" + "0" * 400, ["iterations: got", "<= 1000000000"]),
        ("lr: " + "[" * 2000, ["nested too deeply"]),
        ("lr: [[1]]", ["lr: must be a value or a list of values"]),
        ('data_dir: "a\\0b"', ["data_dir: got 'a\\x00b'"]),
        ("conv_layer: {a: b}", ["conv_layer: must be a value or a list of values"]),
        ("epochs: 0", ["mine.yaml", "epochs", ">= 1"]),
    ],
)
def test_a_wrong_preset_is_named_with_its_fault(preset, text, words):
    with pytest.raises(PipelineError) as error:
        resolve({"preset": preset(text), "epochs": "3"})
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_comma_makes_no_list_of_a_value_that_cannot_be_one(preset):
    path = preset("data_dir: /data/a,b")
    assert resolve({"preset": path}).data_dir == "/data/a,b"
    assert {run.data_dir for run in resolve_study({"preset": path}).runs} == {"/data/a,b"}


def test_the_label_of_a_protocol_tells_what_differs_from_its_preset(preset):
    assert protocol_label(resolve({"seed": "3", "conv_layer": "coordconv2d"})) == "replication"
    assert protocol_label(resolve({"epochs": "3"})) == "replication epochs=3"
    params = resolve({"preset": preset("epochs: 3"), "lr": "0.1"})
    assert protocol_label(params) == "mine lr=0.1"


def test_what_a_comparison_varies_is_no_part_of_the_protocol():
    one = resolve({"conv_layer": "conv2d", "seed": "1", "threads": "1"})
    other = resolve({"conv_layer": "coordconv2d", "seed": "2", "device": "cpu"})
    assert one.protocol == other.protocol != resolve({"batch_size": "32"}).protocol


def test_a_study_is_both_layers_with_five_seeds_unless_told_otherwise():
    study = resolve_study({})
    assert [(run.conv_layer, run.seed) for run in study.runs] == [
        (layer, seed) for seed in range(5) for layer in ("conv2d", "coordconv2d")
    ]
    assert study.label == "replication"
    assert study.varied == {"conv_layer": ["conv2d", "coordconv2d"]}


def test_any_parameter_of_a_study_may_be_a_list_from_preset_or_command_line(preset):
    path = preset("lr: [0.01, 0.02]\nruns: 1\nepochs: 3\n")
    study = resolve_study({"preset": path, "conv_layer": "conv2d", "batch_size": "32, 64"})
    assert [(run.lr, run.batch_size, run.seed) for run in study.runs] == [
        (0.01, 32, 0),
        (0.01, 64, 0),
        (0.02, 32, 0),
        (0.02, 64, 0),
    ]
    assert study.varied == {"lr": [0.01, 0.02], "batch_size": [32, 64]}
    assert study.label == "mine"
    assert {run.epochs for run in study.runs} == {3}


def test_a_study_is_known_by_its_parameters_but_for_seeds_and_what_is_no_science():
    def id(**given):
        return resolve_study(given).id

    same = [
        {"runs": "10"},
        {"seed": "7,8"},
        {"first_seed": "100"},
        {"workers": "1"},
        {"margin": "0.2"},
        {"lr": "1e-2"},
    ]
    same += [{"conv_layer": "coordconv2d,conv2d"}, {"data_dir": "elsewhere"}, {"threads": "2"}]
    assert {id(**given) for given in same} == {id()}
    other = [{"epochs": "3"}, {"conv_layer": "conv2d"}, {"lr": "0.01,0.02"}]
    assert len({id(**given) for given in other} | {id()}) == 4


def test_the_ids_of_studies_of_fixed_size_stay_as_they_are_in_existing_stores(monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert resolve_study({}).id == "8bc482878bf6"
    assert resolve_study({"until": "runs", "lr": "0.01,0.1", "runs": "1"}).id == "a5d38cb99b6d"
    assert resolve_study({"preset": "params/placement.yaml"}).id == "4f5f7279c349"


def test_a_study_that_decides_trains_in_rounds_up_to_its_looks():
    study = resolve_study({"until": "decided"})
    assert study.design == Design((5, 8, 12, 16, 20), margin=0.1)
    assert [len(runs) for runs in study.rounds] == [10, 16, 24, 32, 40]
    study = resolve_study({"until": "decided", "runs": "6", "first_seed": "100", "margin": "0.2"})
    assert study.design == Design((3, 4, 5, 6), margin=0.2)
    assert [run.seed for run in study.rounds[0]] == [100, 100, 101, 101, 102, 102]
    assert study.rounds[-1] == study.runs
    fixed = resolve_study({})
    assert (fixed.design, fixed.rounds) == (None, [fixed.runs])


def test_a_look_takes_runs_by_seed_in_whatever_order_the_seeds_are_given():
    study = resolve_study({"until": "decided", "seed": "9,10,2,7"})
    assert study.design.looks == (3, 4)
    assert [run.seed for run in study.rounds[0]] == [2, 2, 7, 7, 9, 9]


def test_another_plan_is_another_study():
    def id(**given):
        return resolve_study({"until": "decided", **given}).id

    same = [{"runs": "20"}, {"seeds": "20"}, {"margin": "1e-1"}, {"workers": "1"}]
    same += [{"seed": ",".join(map(str, range(20)))}]
    assert {id(**given) for given in same} == {id()}
    other = [{"runs": "19"}, {"margin": "0.2"}, {"first_seed": "100"}, {"until": "runs"}]
    assert len({id(**given) for given in other} | {id()}) == 5


def test_a_preset_may_say_how_long_a_study_goes_on(preset):
    path = preset("until: decided\nepochs: 2\n")
    assert resolve_study({"preset": path}).params.runs == 20
    assert resolve_study({"preset": path, "until": "runs"}).params.runs == 5
    assert resolve({"preset": path}).epochs == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runs": "0"}, ["runs", "'0'", "an integer >= 1"]),
        ({"margin": "nan"}, ["margin", "a number > 0"]),
        ({"runs": "2", "seed": "1,2"}, ["runs", "seed", "not both"]),
        ({"first_seed": "2", "seed": "1,2"}, ["first_seed", "seed", "not both"]),
        ({"first_seed": "-1"}, ["first_seed", "'-1'", "an integer >= 0"]),
        ({"first_seed": 2**32 - 1, "runs": "2"}, ["seed", str(2**32), "< 4294967296"]),
        ({"lr": "0.01,0.01"}, ["lr", "repeated"]),
        ({"lr": "0.01,1e-2"}, ["lr", "repeated"]),
        ({"lr": "0.01,"}, ["lr", "empty"]),
        ({"conv_layer": "conv2d,conv3d"}, ["conv3d", "conv2d, coordconv2d"]),
        ({"until": "bored"}, ["until", "'bored'", "runs, decided"]),
        ({"until": "decided", "runs": "1"}, ["at least 2 runs", "got 1"]),
        ({"until": "decided", "seed": "7"}, ["at least 2 runs", "got 1"]),
        ({"until": "decided", "conv_layer": "conv2d"}, ["two kinds", "until=runs"]),
    ],
)
def test_a_wrong_value_of_a_study_is_named_with_what_is_allowed(given, words):
    with pytest.raises(PipelineError) as error:
        resolve_study(given)
    for word in words:
        assert word in str(error.value)


def test_seeds_is_another_name_of_runs(preset):
    assert len(resolve_study({"seeds": "2"}).runs) == 4
    assert len(resolve_study({"preset": preset("runs: 3"), "seeds": "1"}).runs) == 2
    assert resolve_study({"seeds": "2"}).id == resolve_study({"runs": "5"}).id
    with pytest.raises(PipelineError, match="runs or seeds"):
        resolve_study({"seeds": "2", "runs": "2"})


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({"epochs": "7"}, 7),
        ({"iterations": "1"}, 1),
        ({"iterations": "938"}, 1),  # 60,000 images in batches of 64
        ({"iterations": "939"}, 2),
        ({"iterations": "70000", "batch_size": "256"}, 298),
        ({"iterations": "782", "validation_size": "10000"}, 1),
    ],
)
def test_iterations_take_the_place_of_epochs(given, epochs):
    assert resolve(given).planned_epochs == epochs


@pytest.mark.parametrize(
    ("text", "given", "epochs"),
    [
        ("iterations: 5000", {"epochs": "2"}, 2),
        ("epochs: 9", {"iterations": "2000"}, 3),
        ("iterations: 5000", {"iterations": "938"}, 1),
    ],
)
def test_epochs_and_iterations_replace_each_other(preset, text, given, epochs):
    assert resolve({"preset": preset(text), **given}).planned_epochs == epochs
    assert resolve_study({"preset": preset(text), **given}).runs[0].planned_epochs == epochs


@pytest.mark.parametrize("resolved", [resolve, resolve_study])
def test_a_length_or_a_decay_in_two_units_is_refused(preset, resolved):
    with pytest.raises(PipelineError, match="give epochs or iterations"):
        resolved({"epochs": "3", "iterations": "100"})
    with pytest.raises(PipelineError, match="give lr_step or lr_step_iterations"):
        resolved({"preset": preset("lr_step: 3\nlr_step_iterations: 30")})


def test_a_decay_in_epochs_replaces_the_presets_in_iterations(preset):
    params = resolve({"preset": preset("lr_step_iterations: 100"), "lr_step": "3"})
    assert (params.lr_step, params.lr_step_iterations) == (3, 0)


def test_what_iterations_replace_is_no_part_of_the_protocol():
    """MLflow shows epochs of every run; those that were not trained by are none of the science."""
    protocol = resolve({"iterations": "100"}).protocol
    assert "epochs" not in protocol
    assert protocol["iterations"] == 100
    assert protocol_label(resolve({"iterations": "100"})) == "replication iterations=100"


def test_a_training_takes_one_value_where_its_preset_has_a_list_for_a_study(preset):
    path = preset("architecture: cnn,stn-c1\nlr: [0.01, 0.02]")
    given = {"preset": path, "architecture": "stn-c1", "lr": "0.02"}
    assert resolve(given).architecture == "stn-c1"
    with pytest.raises(
        PipelineError, match=r"architecture is a list, cnn,stn-c1.*--architecture cnn"
    ):
        resolve({"preset": path})


@pytest.mark.parametrize("path", sorted(map(str, (PROJECT / "params").glob("*.yaml"))))
def test_every_preset_is_a_study_whose_networks_can_be_built(path):
    for params in resolve_study({"preset": path, "seeds": "1"}).runs:
        check_network(params)


def test_a_wrong_value_in_a_preset_names_the_preset(preset):
    path = preset("epochs: 0\n")
    for function in (resolve, resolve_study):
        with pytest.raises(PipelineError, match=r"preset .*mine.yaml: epochs: got '0'"):
            function({"preset": path, "epochs": "3"})


def test_seeds_on_the_command_line_go_before_the_presets_number_of_runs(preset):
    study = resolve_study({"preset": preset("runs: 3\n"), "conv_layer": "conv2d", "seed": "7"})
    assert [run.seed for run in study.runs] == [7]


def seeds_of(**given):
    return [run.seed for run in resolve_study({"conv_layer": "conv2d", **given}).runs]


def test_the_seeds_of_a_study_begin_at_the_first_seed(preset):
    assert seeds_of(first_seed="100", runs="3") == [100, 101, 102]
    assert seeds_of(first_seed="100") == [100, 101, 102, 103, 104]
    path = preset("runs: 2\nfirst_seed: 7\n")
    assert seeds_of(preset=path) == [7, 8]
    assert seeds_of(preset=path, runs="3") == [7, 8, 9]
    assert seeds_of(preset=path, first_seed="1") == [1, 2]
    assert seeds_of(preset=path, seed="4,6") == [4, 6]


def test_a_number_of_runs_or_a_first_seed_goes_before_the_presets_seeds(preset):
    path = preset("seed: [4, 6]\n")
    assert seeds_of(preset=path) == [4, 6]
    assert seeds_of(preset=path, runs="2") == [0, 1]
    assert seeds_of(preset=path, first_seed="100", seeds="2") == [100, 101]


def test_a_preset_of_a_study_serves_a_training_as_well(preset):
    path = preset("runs: 3\nfirst_seed: 9\nmargin: 0.2\nepochs: 2\n")
    assert (resolve({"preset": path}).epochs, resolve({"preset": path}).seed) == (2, 0)
    assert protocol_label(RunParams(epochs=2, preset=path)) == "mine"
