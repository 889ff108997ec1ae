"""Contenders are measured correctly, and missing or failing ones are reported."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.measure import (
    Contender,
    Measurement,
    Step,
    choose_core,
    latencies,
    markdown,
    measure,
    peer_command,
    report,
    table,
)
from dynunet_bundle.delivery.export.export import machine_facts
from dynunet_bundle.errors import ConfigError

CORE = choose_core(None)


def python(code: str, **kwargs) -> Step:
    return Step((sys.executable, "-c", code), **kwargs)


def burn(seconds: float) -> str:
    return f"import time\nwhile time.process_time() < {seconds}: pass"


def test_seconds_add_up_and_memory_is_the_largest():
    contender = Contender("x", (python(burn(0.3)), python("b'x' * 2**27"), python(burn(0.3))))
    found = measure(contender, CORE)
    assert found.remark == ""
    assert found.cpu_s >= 0.6
    assert found.wall_s >= 0.6
    assert 128 < found.peak_mib < 256


def test_a_step_that_is_not_timed_does_not_count():
    found = measure(Contender("x", (python(burn(1), timed=False), python("pass"))), CORE)
    assert 0 < found.cpu_s < 0.9


def test_processes_below_count_too():
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn(0.5)!r}])"
    assert measure(Contender("x", (python(child),)), CORE).cpu_s >= 0.5


def test_a_command_may_time_a_part_of_itself(tmp_path: Path):
    figures = {"cpu_s": 1.5, "wall_s": 2.5, "peak_mib": 64.0}
    path = tmp_path / "figures.json"
    code = f"open({str(path)!r}, 'w').write({json.dumps(figures)!r})"
    found = measure(Contender("x", (python(code, figures=path),)), CORE)
    assert found == Measurement("x", **figures)


def test_one_core_one_thread_and_the_environment_of_the_contender(tmp_path: Path):
    code = (
        "import json, os; names = ('OMP_NUM_THREADS', 'OWN'); facts = [os.environ[n] for n in names]; "
        f"cores = os.sched_getaffinity(0); json.dump([*facts, *cores], open({str(tmp_path / 'out')!r}, 'w'))"
    )
    assert measure(Contender("x", (python(code),), {"OWN": "7"}), CORE).remark == ""
    assert json.loads((tmp_path / "out").read_text()) == ["1", "7", CORE]
    assert "OWN" not in os.environ


def test_a_failure_stops_the_contender_and_is_told():
    found = measure(Contender("x", (python("raise SystemExit('no data')"), python(burn(9)))), CORE)
    assert found.contender == "x"
    assert found.remark.startswith("failed: ")
    assert found.remark.endswith("(1): no data")
    assert found.cpu_s is None


def test_a_missing_contender_is_skipped_with_its_reason(tmp_path: Path):
    path, missing = peer_command(tmp_path, "python")
    assert path == str(tmp_path / "bin" / "python")
    found = measure(Contender("x", (Step((path,)),), missing=missing), CORE)
    assert found.remark == f"skipped: {path} does not exist (see peers-requirements.txt)"
    (tmp_path / "bin").mkdir()
    Path(path).touch()
    assert peer_command(tmp_path, "python")[1] == ""


def test_ratios_are_to_the_first_row():
    rows = [
        Measurement("ours", 2.0, 2.5, 512.0),
        Measurement("other", 5.0, 6.0, 256.0, "far"),
        Measurement("absent", remark="skipped: not there"),
    ]
    header, *lines = (line.split() for line in table(rows).splitlines())
    assert header[:1] == ["contender"]
    assert lines[0] == ["ours", "2.00", "2.50", "512", "1.00", "1.00"]
    assert lines[1] == ["other", "5.00", "6.00", "256", "2.50", "0.50", "far"]
    assert lines[2] == ["absent", "-", "-", "-", "-", "-", "skipped:", "not", "there"]


def test_details_are_columns_and_empty_ones_are_left_out():
    rows = [
        Measurement("ours", wall_s=2.0, details={"mean ms": 4.0, "steps": [1, 2]}),
        Measurement("absent", remark="skipped"),
    ]
    header, ours, absent = table(rows).splitlines()
    assert header.split() == ["contender", "wall", "s", "mean", "ms", "remark"]
    assert ours.split() == ["ours", "2.00", "4.0"]
    assert absent.split() == ["absent", "-", "-", "skipped"]


def test_markdown_has_the_same_cells():
    rows = [Measurement("ours", 2.0, 2.5, 512.0), Measurement("other", 5.0, remark="far")]
    lines = markdown("x", {"title": rows}).splitlines()
    assert lines[0] == "# Benchmark: x" and "## title" in lines
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert cells[0] == [
        "contender",
        "CPU s",
        "wall s",
        "peak MiB",
        "CPU ratio",
        "memory ratio",
        "remark",
    ]
    assert cells[1] == ["---", *["---:"] * 5, "---"]
    assert cells[3] == ["other", "5.00", "-", "-", "2.50", "-", "far"]


def test_latencies_are_mean_and_percentiles():
    figures = latencies([float(value) for value in range(101)])
    assert figures == {"mean ms": 50.0, "90 % ms": 90.0, "95 % ms": 95.0, "99 % ms": 99.0}


def test_without_a_core_the_process_has_all_threads(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path = tmp_path / "figures.json"
    code = (
        "import json, os; assert 'OMP_NUM_THREADS' not in os.environ; "
        f"json.dump({{'wall_s': len(os.sched_getaffinity(0)), 'details': {{'a': 1}}}}, open({str(path)!r}, 'w'))"
    )
    found = measure(Contender("x", (python(code, figures=path),)), None)
    assert (found.wall_s, found.details) == (len(os.sched_getaffinity(0)), {"a": 1})


def test_the_report_is_json_with_date_and_machine():
    content = json.loads(json.dumps(report("x", {"title": [Measurement("ours", 1.0, 1.0, 1.0)]})))
    assert content["sections"]["title"][0]["contender"] == "ours"
    assert content["machine"] == machine_facts()
    assert content["date"].endswith("+00:00")


def test_a_core_that_is_not_ours_is_refused():
    with pytest.raises(ConfigError, match="--core is 100000"):
        choose_core(100000)
