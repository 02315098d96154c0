"""Fuzz the readers of TMVA's option strings and macros; run by hand, not by the tests.

    pip install atheris
    mkdir found
    python tests/fuzz/fuzz_tmva_options.py found tests/fuzz/corpus/tmva_options -max_total_time=300

The first byte of an input chooses the reader: the options of a method, those of a split, a whole conversion,
a macro in C++, a macro in Python, a formula of a cut. Whatever is read, nothing but a `ConfigError` of one
line may be raised.
"""

import sys

import atheris

with atheris.instrument_imports(include=["timelike.tmva"]):
    from timelike.errors import ConfigError
    from timelike.tmva.convert import convert
    from timelike.tmva.cuts import translated
    from timelike.tmva.macro import convert_macro
    from timelike.tmva.options import parse, parse_split


def one_input(data: bytes) -> None:
    """Give one input to one reader."""
    if not data:
        return
    text = data[1:].decode("utf-8", errors="replace")
    readers = (
        lambda: parse(text),
        lambda: parse_split(text),
        lambda: convert(text),
        lambda: convert_macro(text, "m.C"),
        lambda: convert_macro(text, "m.py"),
        lambda: translated(text),
    )
    try:
        readers[data[0] % len(readers)]()
    except ConfigError as error:
        if "\n" in str(error):
            raise AssertionError(f"an error of several lines: {error}") from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
