"""Coming over from ROOT's TMVA: its option strings and macros, its weight files, its evaluation."""

from timelike.tmva.convert import convert
from timelike.tmva.evaluation import TmvaEvaluation, evaluate
from timelike.tmva.macro import convert_macro
from timelike.tmva.options import parse, parse_split
from timelike.tmva.rootfile import check_root_path, write_root
from timelike.tmva.weights import read_weights
from timelike.tmva.weightwriter import write_weights

__all__ = [
    "TmvaEvaluation",
    "check_root_path",
    "convert",
    "convert_macro",
    "evaluate",
    "parse",
    "parse_split",
    "read_weights",
    "write_root",
    "write_weights",
]
