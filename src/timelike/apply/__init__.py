"""Applying a model to files of events of any size: scores beside event numbers and observers, in a table.

Events go the way in pieces, so that memory is bounded by the size of a piece and not by that of the files:

- `timelike.apply.run` -- the whole way: plan the pieces, score them, put the table together;
- `timelike.apply.pieces` -- which entries of which file a piece is, and reading it;
- `timelike.apply.scoring` -- what is needed of a model, and the columns that it makes of events;
- `timelike.apply.parts` -- the folder of pieces that are finished: what an interrupted run goes on from;
- `timelike.apply.workers`, `timelike.apply.worker` -- processes that share the pieces.
"""

from timelike.apply.run import PIECE, Application, apply

__all__ = ["PIECE", "Application", "apply"]
