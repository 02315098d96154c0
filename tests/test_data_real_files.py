"""Files as experiments write them; run where `TIMELIKE_DATA` names the folder of a collection."""

import os
from pathlib import Path

import numpy as np
import pytest

from event_files import read_events
from timelike.errors import DataError

FILES = Path(os.environ.get("TIMELIKE_DATA", "no-data")) / "root_files"

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="TIMELIKE_DATA names no collection of real files")

UNLABELLED = {"labelled": False}


def test_jagged_arrays_of_a_flat_tree():
    s = read_events(
        FILES,
        {"sort_by": "hypot(Jet_Px, Jet_Py)"},
        files=["uproot-HZZ.root"],
        variables=["hypot(Jet_Px, Jet_Py)", "Jet_btag", "Jet_ID", "hypot(MET_px, MET_py)"],
        weights="EventWeight",
        observers=["NJet", "triggerIsoMu24"],
        labels={"none": "NJet == 0", "some": "NJet > 0"},
    )
    assert len(s) == 2421
    np.testing.assert_array_equal(s.observers["NJet"], s.lengths)
    assert s.labels.tolist() == (s.lengths > 0).astype(int).tolist()
    assert set(np.unique(s.values[:, 2])) == {0, 1}
    first = s[int(np.argmax(s.lengths))][:, 0]
    assert np.all(first[:-1] >= first[1:])


def test_nanoaod():
    s = read_events(
        FILES,
        {"keep_first": 3},
        files=["nanoAOD_2015_CMS_Open_Data_ttbar.root"],
        treename="Events",
        selection="nJet >= 2 && max(Jet_pt) > 40",
        variables=["log(Jet_pt)", "Jet_eta", "Jet_btagCSVV2"],
        event_number="event",
        options=UNLABELLED,
    )
    assert 0 < len(s) <= 200
    assert set(s.lengths) <= {2, 3}
    assert len(set(s.events.tolist())) == len(s)


def test_several_trees_and_none_named():
    with pytest.raises(DataError, match=r"coffea_nano_dy\.root: holds 2 trees \('Events', 'Runs'\)"):
        read_events(FILES, files=["coffea_nano_dy.root"], options=UNLABELLED)


def test_an_rntuple():
    s = read_events(
        FILES,
        files=["Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root"],
        variables=["Muon_pt", "_collection0.Muon_eta", "Muon_charge"],
        labels={"neutral": "sum(Muon_charge) == 0", "charged": "sum(Muon_charge) != 0"},
        observers=["nMuon"],
        options={"dtype": "float64"},
    )
    assert len(s) == 1000
    np.testing.assert_array_equal(s.observers["nMuon"], s.lengths)
    assert set(np.unique(s.values[:, 2])) == {-1, 1}


def test_physlite():
    s = read_events(
        FILES,
        files=["uproot-physlite-rntuple_v1-0-0-0.root"],
        treename="EventData",
        variables=["AnalysisJetsAuxDyn:pt", "`AnalysisJetsAuxDyn:pt` / 1000", "`AnalysisJetsAuxDyn:eta`"],
        options=UNLABELLED,
    )
    assert len(s) == 100
    np.testing.assert_allclose(s.values[:, 1] * 1000, s.values[:, 0], rtol=2e-7)
    assert np.all(np.abs(s.values[:, 2]) < 5)


def test_what_a_real_file_has_not():
    with pytest.raises(
        DataError, match=r"tree 'events': data\.variables: no branch 'Jet_PX'; nearest: 'Jet_P"
    ):
        read_events(FILES, files=["uproot-HZZ.root"], variables=["Jet_PX"], options=UNLABELLED)
