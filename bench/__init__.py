"""How fast timelike is beside other libraries, on the machine at hand.

    python -m bench [TABLE ...] [--seconds 1] [--quick] [--json FILE] [--docs]

- `cases`: what is computed, and the numbers it is computed with;
- `peers`: one module for each library that computes it, timelike among them;
- `worker`: a process in which one library runs and takes the time of its own calls;
- `drive`: starts the workers, has them checked against float64, and times them in turn;
- `tables`: one module per table, which chooses cases and writes Markdown;
- `report`: the document and the picture made from all numbers.

Every library has a process, and so an environment and threads, of its own: none can disturb another but by
being on the same machine. The processes of one row are pinned to the same core and run in turn, a few
milliseconds to a tenth of a second each, again and again, so that a busy machine slows all of them alike.
"""
