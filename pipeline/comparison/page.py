"""The artifacts of a comparison: tables, figures, and one self-contained HTML page."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from pipeline.comparison import sentences, tables
from pipeline.comparison.files import as_csv, as_json, as_markdown
from pipeline.comparison.formats import margin_text
from pipeline.comparison.groups import CURVES
from pipeline.comparison.report import Protocol, Report
from pipeline.figures.confusion import confusion_matrices_figure
from pipeline.figures.gallery import CAPTIONS, Gallery, gallery_figure
from pipeline.figures.of_comparison import Accuracies, comparison_figure, run_curves_figure
from pipeline.tracking.vocabulary import Artifact

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def comparison_files(report: Report) -> dict[str, Any]:
    """The artifacts `comparison.md`, `.csv`, `.json`, `.png`, `.html`, and `gallery.png` if any.

    The gallery shows the poses of the champions; without stored poses, there is none.
    """
    files = {
        Artifact.COMPARISON: as_markdown(report),
        Artifact.COMPARISON_RUNS: as_csv(report),
        Artifact.COMPARISON_DATA: as_json(report),
        Artifact.COMPARISON_FIGURE: _comparison_figure(report.protocols, report.margin),
        Artifact.COMPARISON_PAGE: as_html(report),
    }
    galleries = {protocol.label: _galleries(protocol) for protocol in report.protocols}
    galleries = {label: groups for label, groups in galleries.items() if groups}
    if galleries:
        files[Artifact.GALLERY] = gallery_figure(galleries)
    return files


def as_html(report: Report) -> str:
    """One page without scripts that loads nothing; the figures are embedded."""
    return _TEMPLATES.get_template("comparison.html.j2").render(
        report=report,
        tables=tables,
        sentences=sentences,
        sections=[(protocol, _pictures(protocol, report)) for protocol in report.protocols],
    )


def _comparison_figure(protocols: list[Protocol], margin: float) -> Figure:
    accuracies = {
        f"{protocol.label}\n{protocol.caption}": {
            group.name: Accuracies(
                group.percentages,
                group.accuracy.mean,
                group.accuracy.low,
                group.accuracy.high,
            )
            for group in protocol.groups
        }
        for protocol in protocols
    }
    return comparison_figure(accuracies, margin, margin_text(margin))


def _galleries(protocol: Protocol) -> dict[str, Gallery]:
    """What the gallery shows, by group; groups without stored poses are left out."""
    galleries = {}
    for group in protocol.groups:
        poses = group.poses
        if poses is not None:
            caption = CAPTIONS[poses.warps_image]
            galleries[group.name] = Gallery(poses.before, poses.after, poses.outline, caption)
    return galleries


def _pictures(protocol: Protocol, report: Report) -> dict[str, str]:
    """The figures of one protocol as data URIs; those whose data is not stored are left out."""
    drawn = {"comparison": _comparison_figure([protocol], report.margin)}
    curves = {
        group.name: [run.curves for run in group.runs if run.curves.keys() == set(CURVES)]
        for group in protocol.groups
    }
    curves = {name: runs for name, runs in curves.items() if runs}
    if curves:
        drawn["curves"] = run_curves_figure(curves)
    galleries = _galleries(protocol)
    if galleries:
        drawn["gallery"] = gallery_figure({protocol.label: galleries})
    confusions = {
        f"{group.name}, seed {group.champion.seed}: {group.champion.accuracy:.2%}": group.confusion
        for group in protocol.groups
        if group.confusion is not None
    }
    if confusions:
        drawn["confusions"] = confusion_matrices_figure(confusions)
    return {name: _data_uri(figure) for name, figure in drawn.items()}


def _data_uri(figure: Figure) -> str:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
