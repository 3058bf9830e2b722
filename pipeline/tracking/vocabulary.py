"""The names that this project uses in MLflow: of tags, metrics and artifacts.

Existing stores contain these names, so a name must not change. Params are not listed here: they
have the names of the fields of `pipeline.params.RunParams`.
"""


class Tag:
    """Tags of runs. Their values are text."""

    # of a training run
    PROTOCOL = "stn.protocol"  # preset and what differs from it, such as `replication lr=0.1`
    SELECTION = "stn.selection"  # what the best epoch was selected on: `test` or `validation`
    DATA_DIGEST = "stn.data_digest"  # digest of the four MNIST files
    CONV_LAYER = "stn.conv_layer"  # of a user's own layer: `module:Class@digest`
    TRAINING = "stn.training"  # of a single training: name of its files in `checkpoints/`
    COLLAPSED = "stn.collapsed"  # epoch of a collapse and why, `epoch 3: the transformer shows …`
    ERROR = "stn.error"  # class and first line of the error that ended a failed run

    # of a study's parent run and of the runs below it
    STUDY = "stn.study"  # id of the study, which follows from its parameters
    CHECKPOINTS = "stn.checkpoints"  # path of the folder of its checkpoints, or `artifacts`

    # of a run below a study
    STUDY_RUN = "stn.study_run"  # name of the run, unique in its study: `coordconv2d seed=3`

    # of a study's parent run
    DESIGN = "stn.design"  # the plan of a study that stops when it is decided, as JSON
    LOOKS = "stn.looks"  # of a study of fixed size, the seeds at each look: `[["0-1"], ["0-2"]]`
    LEASE = "stn.lease"  # who works on it: host, process, random number, count of heartbeats
    HOST = "stn.host"  # name of the machine that the study was last started on
    PROGRESS = "stn.progress"  # how far the study is: `3/10 runs, best 99.12% (conv2d seed=1)`

    # of what a run ran on; of a continued run, values that differ are joined: `1, then 2`
    TORCH = "stn.torch"  # version of PyTorch
    TORCHVISION = "stn.torchvision"  # version of torchvision
    MLFLOW = "stn.mlflow"  # version of MLflow
    NUMPY = "stn.numpy"  # version of NumPy
    CPU = "stn.cpu"  # name and model of the CPU, and the vector instructions that torch uses
    DEVICE = "stn.device"  # torch device: `cpu`, or `cuda` and the name of the GPU
    THREADS = "stn.threads"  # number of torch's threads
    COMMIT = "stn.commit"  # commit of the project's repository
    DIRTY = "stn.dirty"  # `true` if tracked files had uncommitted changes, else `false`


OPEN = ("RUNNING", "SCHEDULED")  # MLflow's statuses of a run that has not ended
IN_ARTIFACTS = "artifacts"  # value of Tag.CHECKPOINTS: they are among the run's artifacts


class VersionTag:
    """Tags of a version of the registered model, by which the aliases move."""

    SELECTION_SET = "stn.selection"  # set that selected: `test`, `validation 10000`, `rotated test`
    ACCURACY = "stn.accuracy"  # accuracy on that set, a fraction
    LOSS = "stn.loss"  # cross-entropy on that set


class Metric:
    """Metrics of runs. Accuracies and F1 are fractions, losses are cross-entropies in nats."""

    # of each epoch of a training run; its step is the epoch, from 1
    TRAIN_LOSS = "train_loss"  # mean over the epoch's images, with dropout
    TRAIN_ACCURACY = "train_accuracy"  # mean over the epoch's images, with dropout
    TEST_LOSS = "test_loss"  # on one pose of each test image (an evaluation: all poses)
    TEST_ACCURACY = "test_accuracy"  # on one pose of each test image (an evaluation: all poses)
    VAL_LOSS = "val_loss"  # on the validation images, where there are some
    VAL_ACCURACY = "val_accuracy"  # on the validation images, where there are some
    LEARNING_RATE = "learning_rate"  # in the epoch's first step
    EPOCH_SECONDS = "epoch_seconds"  # wall time of the epoch, with its evaluation
    IMAGES_PER_SECOND = "images_per_second"  # of the epoch's training steps

    # of the selected model of a training run, on all poses of the test set
    BEST_TEST_ACCURACY = "best_test_accuracy"  # of a study's parent run: the highest of its runs
    BEST_TEST_F1 = "best_test_f1"  # macro F1
    BEST_TEST_LOSS = "best_test_loss"  # cross-entropy
    BEST_EPOCH = "best_epoch"  # the selected epoch
    POSE_DEVIATION = "pose_deviation"  # see `training.pose_deviation`

    # of an evaluation, with TEST_ACCURACY and TEST_LOSS
    TEST_F1 = "test_f1"  # macro F1

    # of a study's parent run; the step is the same number
    RUNS_FINISHED = "runs_finished"  # number of the study's runs that have finished


class Artifact:
    """Files of runs, by their path among the run's artifacts."""

    # of a training run; with a user's own layer, also its source file by its own name
    PARAMS = "params.yaml"  # every parameter of the run
    PREDICTIONS = "predictions.csv"  # header `label,predicted`, then a line for each test image
    LEARNING_CURVES = "learning_curves.png"  # loss and accuracy by epoch
    BEFORE_AFTER = "stn_before_after.png"  # test images before and after the transformer
    POSES = "poses.npz"  # a digit in eight poses: `before`, `after`, `outline`, `warps_image`
    TRANSFORMER = "transformer.gif"  # what the transformer makes of these poses, by epoch

    # of an unfinished run of a study on Ray
    CHECKPOINT = "checkpoint"  # folder of the last checkpoint; its name ends in its digest

    # of a training run and of an evaluation
    CONFUSION_MATRIX = "confusion_matrix.png"
    # a row for each true digit; the first row and the first column name the digits
    CONFUSION_COUNTS = "confusion_matrix.csv"
    CLASSIFICATION_REPORT = "classification_report.json"  # of scikit-learn

    # of a comparison and of a study's parent run
    COMPARISON = "comparison.md"  # tables and verdicts
    COMPARISON_RUNS = "comparison.csv"  # a line for each run
    COMPARISON_DATA = "comparison.json"  # the same as COMPARISON, for programs
    COMPARISON_FIGURE = "comparison.png"  # accuracies of the runs by group
    COMPARISON_PAGE = "comparison.html"  # all of it as one page without scripts
    GALLERY = "gallery.png"  # the poses of the groups' champions
