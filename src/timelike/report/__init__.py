"""The report of a run: numbers, figures, and one page that shows them.

- `write_report` writes it all into a run's folder;
- `timelike.report.classes`, `multilabel` and `regression` are what the page says of a task, `run` of every
  run: a function for each section, to which more are added;
- `timelike.report.page` is what a page is made of, `timelike.report.typography` how numbers are written.
"""

from timelike.report.write import write_report

__all__ = ["write_report"]
