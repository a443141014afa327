"""Where pictures lie that a data file names from below a link."""

from __future__ import annotations

import os

from vlforge.data.roots import place_all


def test_rows_behind_a_link_find_what_lies_beside_the_folder_it_leads_to(tmp_path):
    store, run = tmp_path / "store", tmp_path / "runs" / "one"
    (store / "made").mkdir(parents=True)
    (store / "made" / "1.jpg").write_bytes(b"")
    (store / "filter").mkdir()
    run.mkdir(parents=True)
    os.symlink(store / "filter", run / "02-filter")
    (found,) = place_all(str(run / "02-filter"), ["../made/1.jpg"])
    assert found == str(store / "made" / "1.jpg")
    (run / "made").mkdir()
    (run / "made" / "1.jpg").write_bytes(b"")
    (beside,) = place_all(str(run / "02-filter"), ["../made/1.jpg"])
    assert beside == str(run / "made" / "1.jpg")
    (lost,) = place_all(str(run / "02-filter"), ["../none/1.jpg"])
    assert lost == str(run / "none" / "1.jpg")
