import json

import pytest

from benchmarks import throughput_report


@pytest.fixture
def measured():
    """A report as `benchmarks/throughput.py` makes it of a quick look, with made-up figures."""
    columns = throughput_report.COLUMNS.values()
    plain = {
        "images_per_second": dict(zip(columns, (1000.0, 3000.0, 5000.0, 4000.0), strict=True)),
        "ratio_one_run": 3.0,
        "ratio_all_cores": 5.0,
        "ratio_products": 1.25,
        "floor_ratio": 4.0,
    }
    return {
        "machine": "x86_64",
        "versions": "torch",
        "commit": "abc",
        "date": "2026-11-25",
        "protocol": "an epoch",
        "gflops_per_core": 100.0,
        "conv2d": {"plain": plain},
        "coordconv2d": {"plain": plain},
        "step_milliseconds": {"conv2d": {1: 2.0, 64: 8.0}, "coordconv2d": {1: 3.0, 64: 10.0}},
        "peak_mib": {"a": 1.0, "b": 2.0, "c": 3.0},
        "breakdown": {"conv2d": {"copies": 0.2}, "coordconv2d": {"copies": 0.3}},
        "help_over_click_seconds": 0.1,
    }


def test_a_report_replaces_that_of_its_own_cpu_and_no_other(tmp_path, monkeypatch, measured):
    files = tmp_path / "throughput.json", tmp_path / "throughput.md"
    for name, rate in (("A (AVX2)", 1.0), ("A", 2.0), ("A (AVX2)", 3.0)):
        monkeypatch.setattr(throughput_report, "cpu", lambda name=name: name)
        report = {**measured, "gflops_per_core": rate}
        throughput_report.keep(*files, report, throughput_report.as_markdown(report, quick=True))
    reports = json.loads(files[0].read_text())
    assert {name: report["gflops_per_core"] for name, report in reports.items()} == {
        "A (AVX2)": 3.0,
        "A": 2.0,
    }
    head, *sections = files[1].read_text().split("\n## ")
    assert head.strip() == "# Throughput"
    assert [section.splitlines()[0] for section in sections] == ["A (AVX2)", "A"]
    assert "3 GFLOP/s" in sections[0]
    assert (
        "| conv2d | plain | 1,000 | 3,000 | 5,000 | 4,000 | 3.00 | 5.00 | 1.25 | 4.0 |"
        in sections[0]
    )
    assert "| copies | 20% | 30% |" in sections[0]
