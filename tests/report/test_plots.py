"""Plots land in files; matplotlib is only touched when one is drawn."""
import subprocess
import sys

import pytest

from fathom.errors import UserError
from fathom.report import plots


def test_importing_the_room_does_not_import_matplotlib():
    code = "import sys, fathom.report, fathom.report.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_each_plot_writes_its_format(tmp_path, suffix, magic):
    pytest.importorskip("matplotlib")
    made = [
        plots.line_plot(tmp_path / f"sub/line{suffix}", [("a", [1, 10], [3, float("nan")]), ("b", [1, 10], [1, 2])], title="t",
                        x_label="x", y_label="y", log_x=True),
        plots.heat_plot(tmp_path / f"heat{suffix}", ["0%", "100%"], ["4K"], [[0.5], [None]], title="t", row_label="r", column_label="c"),
    ]
    for path in made:
        assert path.read_bytes().startswith(magic)


def test_without_matplotlib_one_line_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"fathom\[plot\]"):
        plots.line_plot(tmp_path / "x.png", [("a", [1], [1])], title="t", x_label="x", y_label="y")
