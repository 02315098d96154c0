"""Simulate boosted top quarks and QCD jets and write them as a ROOT TTree, one entry per jet.

PYTHIA 8 collides protons at 14 TeV: ``g g, q qbar -> t tbar`` with both W bosons decaying to quarks
(label 1), and all hard QCD processes (label 0), each with showers, multiparton interactions and
hadronisation. FastJet clusters the visible final particles with anti-kT, R = 0.8. Of the two leading jets of
an event those with 550 < pT < 650 GeV and abs(eta) < 2 are kept; a top jet must hold all three quarks of its
decay within R of its axis. There is no detector and no pile-up.

    python -m venv generator && generator/bin/pip install -r requirements.txt
    generator/bin/python generate.py                      # the sample beside this file
    generator/bin/python generate.py --jets 24000 --output large.root

Branches of the tree ``jets`` (constituents by falling transverse momentum, at most ``--constituents``):

=================  ======  ==========================================================================
part_ptrel[npart]  float   transverse momentum of the constituent / that of the jet
part_erel[npart]   float   energy of the constituent / that of the jet
part_deta[npart]   float   eta of the constituent - eta of the jet
part_dphi[npart]   float   phi of the constituent - phi of the jet, in (-pi, pi]
jet_pt             float   transverse momentum of the jet in GeV
jet_eta, jet_phi   float   pseudorapidity and azimuth of the jet's axis, phi in (-pi, pi]
jet_mass           float   mass of the jet in GeV
n_constituents     int     number of constituents before the cut at the hardest (``npart`` are stored)
eventNumber        long    number of the collision; its two jets share it, so split by it
weight             float   1
label              int     1 top, 0 QCD
=================  ======  ==========================================================================

FastJet clusters in rapidity; a soft and heavy constituent can therefore have abs(part_deta) > R. Numbers are
rounded to 12 bits of mantissa. The same ``--seed`` and versions give the same jets, on any number of
processes; the settings and the counts of a run are written beside the sample as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

R = 0.8
PT_MIN, PT_MAX = 550.0, 650.0  # GeV
ETA_MAX = 2.0
PARTICLE_ETA_MAX = 5.0  # far outside any selected jet
N_LEADING = 2

# Float32 keeps 23 bits of mantissa; 12 are more than any network uses (1.2e-4) and halve the file.
MANTISSA_BITS = 12

# Jets of 550 GeV come from much softer scatterings too, lifted by radiation off the incoming partons: a fifth
# of the QCD jets from below 450 GeV, 12 % from below 400, 4 % from below 350. In a study that sampled soft
# scatterings less thinly (weighted, from 180 GeV on), none of 2,986 selected QCD jets came from below 300,
# and one of 2,070 tops (1.3 +- 1.3 % by weight). There is no cut above, where the spectrum falls by itself.
PT_HAT_MIN = 300.0

# Most scatterings above that cut give no jet in the window. The shower shows it early: at 20 GeV the hard
# structure is settled, and what takes the time (soft multiparton interactions, hadrons, decays) is still to
# come. Events without a parton jet near the window are given up there: four of five, and with them 0.2 % of
# the jets that would have been selected.
VETO_SCALE = 20.0
VETO_PT_MIN, VETO_PT_MAX = 0.85 * PT_MIN, PT_MAX / 0.85
VETO_ETA_MAX = ETA_MAX + 0.5

COMMON_SETTINGS = (
    "Beams:idA = 2212",
    "Beams:idB = 2212",
    "Beams:eCM = 14000",
    f"PhaseSpace:pTHatMin = {PT_HAT_MIN}",
    "Print:quiet = on",
    "Random:setSeed = on",
)
CLASS_SETTINGS = {
    "qcd": ("HardQCD:all = on",),
    "top": (
        "Top:gg2ttbar = on",
        "Top:qqbar2ttbar = on",
        "24:onMode = off",
        "24:onIfAny = 1 2 3 4 5",
    ),
}
CLASSES = tuple(CLASS_SETTINGS)  # in the order of their labels
JETS_PER_TASK = 500


@dataclass(frozen=True)
class Task:
    """A share of the sample that one process simulates with a seed of its own."""

    name: str  # of the class
    n_jets: int
    n_constituents: int
    seed: int


@dataclass(frozen=True)
class Jet:
    """One selected jet with its hardest constituents relative to it."""

    kinematics: tuple[float, float, float, float]  # pt, eta, phi, mass
    n_constituents: int
    constituents: np.ndarray  # [steps, 4] ptrel, erel, deta, dphi, hardest first


def wrap(phi: np.ndarray | float) -> Any:
    """Bring an azimuth or a difference of two into (-pi, pi]."""
    return phi - 2 * math.pi * np.ceil((phi - math.pi) / (2 * math.pi))


def round_mantissa(values: np.ndarray, bits: int = MANTISSA_BITS) -> np.ndarray:
    """Round float32 numbers to `bits` bits of mantissa (half to even), so that they compress well."""
    words = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    drop = np.uint32(23 - bits)
    one = np.uint32(1)
    half = (one << (drop - one)) - one + ((words >> drop) & one)
    return ((words + half) >> drop << drop).view(np.float32)


def relative(momenta: np.ndarray, jet: np.ndarray, n_hardest: int) -> np.ndarray:
    """Constituents relative to their jet: ptrel, erel, deta, dphi of the `n_hardest`, hardest first.

    Parameters
    ----------
    momenta : array [n, 4]
        Four-momenta px, py, pz, E of the constituents in GeV.
    jet : array [4]
        Four-momentum of the jet.
    n_hardest : int
        How many to keep.
    """
    pt = np.hypot(momenta[:, 0], momenta[:, 1])
    hardest = np.argsort(-pt, kind="stable")[:n_hardest]
    px, py, pz, energy = momenta[hardest].T
    jet_pt = math.hypot(jet[0], jet[1])
    return np.stack(
        [
            pt[hardest] / jet_pt,
            energy / jet[3],
            np.arcsinh(pz / pt[hardest]) - math.asinh(jet[2] / jet_pt),
            wrap(np.arctan2(py, px) - math.atan2(jet[1], jet[0])),
        ],
        axis=1,
    )


def four_momentum(particle: Any) -> list[float]:
    """Return px, py, pz, E of a PYTHIA particle or FastJet pseudojet."""
    return [particle.px(), particle.py(), particle.pz(), particle.e()]


def leading_jets(particles: list[Any], n: int, definition: Any) -> tuple[list[Any], Any]:
    """Cluster particles; the leading jets and the cluster sequence, which must outlive them."""
    import fastjet

    sequence = fastjet.ClusterSequence([fastjet.PseudoJet(*four_momentum(p)) for p in particles], definition)
    return list(fastjet.sorted_by_pt(sequence.inclusive_jets(100.0))[:n]), sequence


def decay_quarks(event: Any) -> list[list[Any]]:
    """For each of the two tops of an event the three quarks it decays to: b and the two of the W."""
    quarks = []
    for outgoing in (5, 6):  # the hard process is always at 3, 4 -> 5, 6
        top = event[event[outgoing].iBotCopyId()]
        products = [event[i] for i in top.daughterList()]
        (w,) = [p for p in products if p.idAbs() == 24]
        w = event[w.iBotCopyId()]
        triplet = [p for p in products if p.idAbs() != 24] + [event[i] for i in w.daughterList()]
        if len(triplet) != 3 or any(p.idAbs() > 5 for p in triplet):
            raise RuntimeError(f"not a hadronic top decay: {[p.id() for p in triplet]}")
        quarks.append(triplet)
    return quarks


def holds(jet: Any, quarks: list[Any]) -> bool:
    """Whether all quarks lie within R of the jet's axis."""
    import fastjet

    return all(fastjet.PseudoJet(*four_momentum(q)).delta_R(jet) < R for q in quarks)


def make_veto(definition: Any) -> Any:
    """PYTHIA hook that gives up events without a parton jet near the selection at `VETO_SCALE`."""
    import pythia8mc

    class Veto(pythia8mc.UserHooks):
        n_seen = 0

        def canVetoPT(self) -> bool:
            return True

        def scaleVetoPT(self) -> float:
            return VETO_SCALE

        def doVetoPT(self, stage: int, event: Any) -> bool:
            if stage > 3:  # showers within decays: the tops as such have been judged already
                return False
            self.n_seen += 1
            jets, _sequence = leading_jets([p for p in event if p.isFinal()], N_LEADING + 1, definition)
            return not any(
                VETO_PT_MIN < jet.pt() < VETO_PT_MAX and abs(jet.eta()) < VETO_ETA_MAX for jet in jets
            )

    return Veto()


def selected_jets(event: Any, name: str, n_constituents: int, definition: Any) -> Iterator[Jet]:
    """Jets of one event that pass the selection."""
    visible = [p for p in event if p.isFinal() and p.isVisible() and abs(p.eta()) < PARTICLE_ETA_MAX]
    jets, _sequence = leading_jets(visible, N_LEADING, definition)
    for jet in jets:
        if not (PT_MIN < jet.pt() < PT_MAX and abs(jet.eta()) < ETA_MAX):
            continue
        if name == "top" and not any(holds(jet, quarks) for quarks in decay_quarks(event)):
            continue
        momenta = np.array([four_momentum(c) for c in jet.constituents()])
        yield Jet(
            (jet.pt(), jet.eta(), float(wrap(jet.phi())), jet.m()),
            len(momenta),
            relative(momenta, np.array(four_momentum(jet)), n_constituents),
        )


def simulate(task: Task) -> tuple[list[list[Jet]], dict[str, int]]:
    """Simulate until the task's jets are there; the jets of each event and the counts."""
    import fastjet
    import pythia8mc

    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, R)
    veto = make_veto(definition)
    pythia = pythia8mc.Pythia("", False)
    for line in (*COMMON_SETTINGS, f"Random:seed = {task.seed}", *CLASS_SETTINGS[task.name]):
        if not pythia.readString(line):
            raise RuntimeError(f"PYTHIA does not know the setting {line!r}")
    pythia.setUserHooksPtr(veto)
    if not pythia.init():
        raise RuntimeError("PYTHIA could not be initialised")

    events: list[list[Jet]] = []
    n_jets = n_simulated = n_failed = 0
    while n_jets < task.n_jets:
        if not pythia.next():
            n_failed += 1
            continue
        n_simulated += 1
        jets = list(selected_jets(pythia.event, task.name, task.n_constituents, definition))
        jets = jets[: task.n_jets - n_jets]
        if jets:
            events.append(jets)
            n_jets += len(jets)
    counts = {
        "seed": task.seed,
        "scatterings": veto.n_seen,
        "simulated_to_the_end": n_simulated,
        "failed": n_failed,
        "events_with_selected_jets": len(events),
        "jets": n_jets,
    }
    return events, counts


def tasks_of(n_jets: int, n_constituents: int, seed: int) -> list[Task]:
    """Cut the sample, half of it each class, into tasks whose seeds differ."""
    n_of = {"qcd": n_jets - n_jets // 2, "top": n_jets // 2}
    tasks = []
    for name in CLASSES:
        shares = [min(JETS_PER_TASK, n_of[name] - done) for done in range(0, n_of[name], JETS_PER_TASK)]
        tasks += [(name, share) for share in shares]
    # PYTHIA's seeds end at 900,000,000; a word of 29 bits stays below, and 0 would mean the clock.
    words = np.random.SeedSequence(seed).generate_state(len(tasks))
    seeds = [1 + (int(word) >> 3) for word in words]
    return [Task(name, n, n_constituents, s) for (name, n), s in zip(tasks, seeds, strict=True)]


def columns(events: list[tuple[int, list[Jet]]]) -> dict[str, Any]:
    """Branches of the tree from the events as (label, jets), numbered in the order given."""
    import awkward as ak

    jets = [(number, label, jet) for number, (label, of_event) in enumerate(events) for jet in of_event]
    kinematics = round_mantissa(np.array([jet.kinematics for _, _, jet in jets], dtype=np.float32))
    steps = round_mantissa(np.concatenate([jet.constituents for _, _, jet in jets]).astype(np.float32))
    counts = [len(jet.constituents) for _, _, jet in jets]
    names = ("ptrel", "erel", "deta", "dphi")
    return {
        "part": ak.zip({name: ak.unflatten(steps[:, i], counts) for i, name in enumerate(names)}),
        **{f"jet_{name}": kinematics[:, i] for i, name in enumerate(("pt", "eta", "phi", "mass"))},
        "n_constituents": np.array([jet.n_constituents for _, _, jet in jets], dtype=np.int32),
        "eventNumber": np.array([number for number, _, _ in jets], dtype=np.int64),
        "weight": np.ones(len(jets), dtype=np.float32),
        "label": np.array([label for _, label, _ in jets], dtype=np.int32),
    }


def write_tree(path: Path, branches: dict[str, Any]) -> None:
    """Write the tree aside, then rename it: `path` is whole or not there."""
    import uproot

    aside = path.with_name(path.name + ".part")
    try:
        with uproot.recreate(aside, compression=uproot.LZMA(9)) as file:
            tree = file.mktree("jets", {name: branch_type(array) for name, array in branches.items()})
            tree.extend(branches)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def branch_type(array: Any) -> Any:
    """Type of a branch for uproot."""
    return array.dtype if isinstance(array, np.ndarray) else array.type


def record(
    path: Path, arguments: argparse.Namespace, counts: dict[str, list[dict[str, int]]]
) -> dict[str, Any]:
    """Tell what the sample is and how to make it again."""
    packages = ("pythia8mc", "fastjet", "numpy", "awkward", "uproot")
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": f"generate.py --jets {arguments.jets} --constituents {arguments.constituents}"
        f" --seed {arguments.seed}",
        "versions": {name: version(name) for name in packages},
        "selection": {
            "algorithm": "anti-kT",
            "R": R,
            "pt_GeV": [PT_MIN, PT_MAX],
            "abs_eta_max": ETA_MAX,
            "leading_jets": N_LEADING,
            "top": "b and both quarks of the W within R of the jet's axis",
            "particles": f"visible, abs(eta) < {PARTICLE_ETA_MAX}",
            "detector": "none",
        },
        "early_veto": {
            "shower_scale_GeV": VETO_SCALE,
            "parton_jet_pt_GeV": [VETO_PT_MIN, VETO_PT_MAX],
            "parton_jet_abs_eta_max": VETO_ETA_MAX,
            "parton_jets": N_LEADING + 1,
        },
        "pythia_settings": {"common": COMMON_SETTINGS, **CLASS_SETTINGS},
        "mantissa_bits": MANTISSA_BITS,
        "tasks": counts,
        "totals": {
            name: {key: sum(c[key] for c in of_class) for key in of_class[0] if key != "seed"}
            for name, of_class in counts.items()
        },
        "suggested_split": "eventNumber % 10: 0-6 training, 7 validation, 8-9 test",
    }


def main() -> None:
    """Read the command line and make the sample."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jets", type=int, default=6000, help="number of jets, half of them tops (6000)")
    parser.add_argument("--constituents", type=int, default=40, help="hardest constituents kept per jet (40)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the whole sample (1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes (all processors)")
    parser.add_argument("--output", type=Path, default=here / "top_vs_qcd.root", help="ROOT file to write")
    arguments = parser.parse_args()
    if arguments.jets < 2 or arguments.constituents < 1 or arguments.processes < 1 or arguments.seed < 0:
        parser.error("at least 2 jets, 1 constituent and 1 process are needed, and a seed >= 0")

    tasks = tasks_of(arguments.jets, arguments.constituents, arguments.seed)
    events: list[tuple[int, list[Jet]]] = []
    counts: dict[str, list[dict[str, int]]] = {name: [] for name in CLASSES}
    with get_context("spawn").Pool(arguments.processes) as pool:
        for task, (of_task, counted) in zip(tasks, pool.imap(simulate, tasks), strict=True):
            events += [(CLASSES.index(task.name), jets) for jets in of_task]
            counts[task.name].append(counted)
            print(task.name, counted, flush=True)
    order = np.random.default_rng(arguments.seed).permutation(len(events))
    write_tree(arguments.output, columns([events[i] for i in order]))
    sidecar = arguments.output.with_suffix(".json")
    sidecar.write_text(json.dumps(record(arguments.output, arguments, counts), indent=1) + "\n")
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB; {sidecar}")


if __name__ == "__main__":
    main()
