import json

import pytest

from benchmarks.throughput_report import COLUMNS, as_markdown, keep, kind_of_machine


@pytest.fixture
def measured():
    """A report as `benchmarks/throughput.py` makes it of a quick look, with made-up figures."""
    columns = COLUMNS.values()
    plain = {
        "images_per_second": dict(zip(columns, (1000.0, 3000.0, 5000.0, 4000.0), strict=True)),
        "ratio_one_run": 3.0,
        "ratio_all_cores": 5.0,
        "ratio_products": 1.25,
        "floor_ratio": 4.0,
    }
    return {
        "kind": "A",
        "versions": "torch",
        "commit": "abc",
        "date": "2026-11-25",
        "protocol": "an epoch",
        "gflops_per_core": 100.0,
        "conv2d": {"plain": plain},
        "coordconv2d": {"plain": plain},
        "step_milliseconds": {"conv2d": {1: 2.0, 64: 8.0}, "coordconv2d": {1: 3.0, 64: 10.0}},
        "paper_step_ratios": {"rotated": 1.5},
        "peak_mib": {"a": 1.0, "b": 2.0, "c": 3.0},
        "breakdown": {"conv2d": {"copies": 0.2}, "coordconv2d": {"copies": 0.3}},
        "help_over_click_seconds": 0.1,
    }


def test_a_report_replaces_that_of_its_own_machine_and_no_other(tmp_path, measured):
    files = tmp_path / "throughput.json", tmp_path / "throughput.md"
    for kind, rate in (("A (AVX2)", 1.0), ("A", 2.0), ("A (AVX2)", 3.0)):
        report = {**measured, "kind": kind, "gflops_per_core": rate}
        keep(*files, report, as_markdown(report, quick=True))
    reports = json.loads(files[0].read_text())
    assert {kind: report["gflops_per_core"] for kind, report in reports.items()} == {
        "A (AVX2)": 3.0,
        "A": 2.0,
    }
    head, *sections = files[1].read_text().split("\n## ")
    assert head.strip() == "# Throughput"
    assert [section.splitlines()[0] for section in sections] == ["A (AVX2)", "A"]
    assert "3 GFLOP/s" in sections[0]
    rates = "1,000 | 3,000 | 5,000 | 4,000"
    assert f"| conv2d | plain | {rates} | 3.00 | 5.00 | 1.25 | 4.0 |" in sections[0]
    assert "| copies | 20% | 30% |" in sections[0]
    assert "rotated digits, one thread) takes 1.50 times as long" in sections[0]


def test_a_limit_of_onednn_makes_another_machine(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    whole = kind_of_machine(2)
    assert whole.endswith(", 2 cores")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert kind_of_machine(2) == f"{whole}, oneDNN up to AVX2"
