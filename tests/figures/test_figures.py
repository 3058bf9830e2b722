"""What the pictures show, read from the matplotlib figures; how they look was looked at."""

import numpy as np

from pipeline.figures import of_comparison, of_predictions, of_run
from pipeline.figures.confusion import confusion_matrices_figure, confusion_matrix_figure
from pipeline.figures.gallery import Gallery, gallery_figure


def test_the_confusion_matrix_has_the_true_digit_in_rows_and_every_count():
    confusion = np.arange(100).reshape(10, 10)
    (axes,) = confusion_matrix_figure(confusion, 0.9876, 0.9765).axes
    assert axes.get_ylabel() == "true digit"
    assert axes.get_xlabel() == "predicted digit"
    assert axes.get_title() == "accuracy 98.76%, macro F1 97.65%, 4,950 images"
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    places = [(row, column) for row in range(10) for column in range(10)]
    assert shown == {(column, row): str(10 * row + column) for row, column in places}


def test_learning_curves_start_at_epoch_1_and_show_percent():
    history = [
        {f"{split}_{kind}": value for split in ("train", "test") for kind in ("loss", "accuracy")}
        for value in (0.5, 0.7, 0.6)
    ]
    loss, accuracy = of_run.learning_curves_figure(history, best_epoch=2).axes
    for axes, scale in ((loss, 1), (accuracy, 100)):
        curves = {line.get_label(): line for line in axes.lines}
        assert curves.keys() == {"training", "test", "best epoch (2)"}
        assert curves["test"].get_xdata().tolist() == [1, 2, 3]
        np.testing.assert_allclose(curves["test"].get_ydata(), np.array([0.5, 0.7, 0.6]) * scale)


def test_the_64_images_stand_in_reading_order():
    images = np.arange(64.0)[:, None, None] * np.ones((64, 4, 4))
    before, after = of_run.before_after_figure(images, images[::-1], "after").axes
    for axes, order in ((before, range(64)), (after, range(63, -1, -1))):
        sheet = axes.images[0].get_array()
        assert [sheet[6 * (n // 8) + 3, 6 * (n % 8) + 3] for n in range(64)] == list(order)


def test_a_comparison_shows_every_run_its_mean_its_interval_and_the_margin():
    accuracies = {
        "conv2d": of_comparison.Accuracies([99.0, 99.2, 99.4], 99.2, 98.7, 99.7),
        "coordconv2d": of_comparison.Accuracies([98.0], 98.0, None, None),
    }
    figure = of_comparison.comparison_figure({"a protocol": accuracies}, 0.125, "0.125")
    (axes,) = figure.axes
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == [
        "mean, 95 % confidence interval",
        "one run",
        "±0.125 pp around the first group's mean",
    ]
    assert axes.get_xlabel() == "test accuracy [%]"
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["conv2d (n=3)", "coordconv2d (n=1)"]
    points = [line.get_xdata().tolist() for line in axes.lines if line.get_label() == "one run"]
    np.testing.assert_allclose(points[0], [99.0, 99.2, 99.4])
    np.testing.assert_allclose(points[1], [98.0])
    mean = axes.containers[0].lines[0].get_xdata(orig=False)
    np.testing.assert_allclose(mean, [99.2])
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bar[:, 0], [98.7, 99.7])
    (band,) = axes.patches
    np.testing.assert_allclose([band.get_x(), band.get_width()], [99.2 - 0.125, 0.25])


def test_runs_of_equal_accuracy_do_not_hide_each_other():
    group = of_comparison.Accuracies([99.0, 99.0, 99.1], 99.03, 98.9, 99.2)
    figure = of_comparison.comparison_figure({"": {"conv2d": group}}, 0.1, "0.10")
    (points,) = [line for line in figure.axes[0].lines if line.get_label() == "one run"]
    first, second, third = points.get_ydata()
    assert first == third != second


def test_run_curves_show_each_run_thin_and_the_mean_of_a_group_thick():
    def run(*accuracies):
        epochs = range(1, len(accuracies) + 1)
        return {
            "test_accuracy": dict(zip(epochs, accuracies, strict=True)),
            "train_loss": dict.fromkeys(epochs, 0.5),
        }

    runs = [run(0.1, 0.98, 0.99, 0.99, 0.99, 0.99), run(0.2, 0.96, 0.97, 0.98, 0.98, 0.98, 0.99)]
    groups = {"conv2d": runs, "other": [run(0.97)]}
    figure = of_comparison.run_curves_figure(groups)
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("cross-entropy", "accuracy [%]")
    thin = [curve for group in accuracy.collections for curve in group.get_segments()]
    assert len(thin) == 3
    np.testing.assert_allclose(thin[0][:2], [[1, 10], [2, 98]])
    thick = accuracy.lines
    assert [line.get_label() for line in thick] == ["mean of conv2d (n=2)", "other"]
    # the epochs that all runs of the group have
    epochs, mean = thick[0].get_xydata().T
    np.testing.assert_allclose(epochs, [1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(mean, [15, 97, 98, 98.5, 98.5, 98.5])
    assert len({line.get_linestyle() for line in thick}) == 2
    # the first epoch would press the others into a line
    bottom, top = accuracy.get_ylim()
    assert 90 < bottom < 96
    assert top > 99
    assert accuracy.get_title() == f"test accuracy, from {bottom:.2f}% on"


def test_the_curves_of_eight_groups_are_told_apart_without_colour():
    run = {"test_accuracy": {1: 0.9, 2: 0.95}, "train_loss": {1: 0.5, 2: 0.4}}
    figure = of_comparison.run_curves_figure({f"group {n}": [run, run] for n in range(8)})
    lines = figure.axes[1].lines
    hollow = [line.get_markerfacecolor() == "white" for line in lines]
    looks = {
        (line.get_linestyle(), line.get_marker(), empty)
        for line, empty in zip(lines, hollow, strict=True)
    }
    assert len(looks) == 8
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 8
    assert not any(axes.get_legend() for axes in figure.axes)


def gallery(reach: float, caption: str = "after the transformer") -> Gallery:
    """Eight images of 60 pixels, outlined by a square that ends at ±reach; 30 pixels of output."""
    corners = reach * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    before = np.arange(8)[:, None, None] * np.ones((60, 60))
    return Gallery(before, before[::-1, ::2, ::2], np.tile(corners, (8, 1, 1)), caption)


def test_the_gallery_outlines_eight_poses_above_what_comes_of_them():
    figure = gallery_figure({"a": {"$x$": gallery(0.5)}, "b": {"y": gallery(1.2, "other")}})
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 2 * 2 * 8
    for number, axes in enumerate(panels[:8]):
        (image,) = axes.images
        assert (image.get_array() == number).all()
        assert image.get_extent() == [-1, 1, 1, -1]  # edge to edge, y downwards
        dashed, solid = axes.lines
        assert dashed.get_xydata().tolist() == [[0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]
        assert solid.get_xydata().tolist() == [[-0.5, -0.5], [0.5, -0.5]]
        assert solid.get_linewidth() > dashed.get_linewidth()
        assert solid.get_linestyle() == "-" != dashed.get_linestyle()
    for number, axes in enumerate(panels[8:16]):
        assert (axes.images[0].get_array() == 7 - number).all()
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [word for word in words if word] == [
        *("input", "$x$", "after the transformer"),
        *("input", "y", "other"),
    ]


def test_a_gallery_shows_an_outline_beside_the_image_unless_it_is_far_away():
    figure = gallery_figure({"": {str(r): gallery(r) for r in (0.5, 1.2, 9, np.nan)}})
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison]
    limits = [axes.get_xlim()[1] for axes in panels[::16]]
    np.testing.assert_allclose(limits, [1.06, 1.26, 1.66, 1.06])
    bottom, top = panels[0].get_ylim()
    assert bottom > top


def test_confusion_matrices_stand_side_by_side_under_their_titles():
    matrix = np.arange(100).reshape(10, 10)
    figure = confusion_matrices_figure(dict.fromkeys("abc", matrix))
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["a", "b", "c"]
    assert all(len(axes.texts) == 100 for axes in figure.axes if axes.axison)


def test_predictions_show_each_file_its_input_and_ten_named_bars():
    images = [np.zeros((20, 50)), np.ones((300, 200))]
    inputs = np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8)
    probabilities = np.full((2, 10), 0.02)
    probabilities[[0, 1], [3, 8]] = 0.82
    names = ["$three$.png", "a name that is much longer than its column is wide.png"]
    figure = of_predictions.predictions_figure(names, images, inputs, probabilities)
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    for row, digit in enumerate((3, 8)):
        image, pixels, bars = figure.axes[3 * row : 3 * row + 3]
        assert image.images[0].get_array().shape == images[row].shape
        np.testing.assert_array_equal(pixels.images[0].get_array(), inputs[row])
        np.testing.assert_allclose(
            [bar.get_height() for bar in bars.patches], 100 * probabilities[row]
        )
        assert (bars.get_xlabel(), bars.get_ylabel()) == ("digit", "probability [%]")
        assert bars.get_title() == f"{digit} (82.0%)"
    assert figure.axes[0].get_title() == "$three$.png"
    assert figure.axes[3].get_title() == "a name that… is wide.png"
