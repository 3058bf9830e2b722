"""From the runs in the store to a verdict. Nothing here knows how the runs were trained.

- `report`: runs, sorted into protocols and groups, as plain data.
- `statistics`: means, intervals, tests, equivalence within a margin, the verdict.
- `tables`: a report in words and digits: Markdown, CSV, JSON.
- `page`: the files of a report, with its pictures and the page `comparison.html.j2`.
- `command`: the comparison as a run of its own.

The command line uses `command`; `study/` uses `report`, `page` and `tables`.
"""
