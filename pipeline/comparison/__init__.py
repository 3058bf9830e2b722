"""From the runs in the store to a verdict. Nothing here knows how the runs were trained.

- `plausible`: what a training may have logged; other runs are left out.
- `protocols`: which runs may be compared; runs sorted into protocols and groups.
- `groups`: the runs of one group, their summary, and the files of the best run.
- `statistics`: intervals, tests of difference, and the test of equivalence within the margin.
- `planning`: how many runs a comparison needs.
- `pairs`: the statistics of two groups, and of all pairs of groups.
- `boundaries`: nominal levels of planned looks, by alpha spending.
- `sequential`: designs with several looks at a growing study, and their decisions.
- `verdict`: the verdict on a pair, in a sentence.
- `report`: the whole comparison as plain data.
- `looks`: by which design a study is judged, and what a look at it has shown.
- `formats`: numbers and lists as text.
- `tables`: the tables of a report.
- `sentences`: the sentences of a report: notes, verdicts, what differs and what is missing.
- `files`: a report as Markdown, CSV and JSON.
- `page`: the artifacts of a report, with its figures and the page `comparison.html.j2`.
- `command`: the comparison as a run of its own.

The command line uses `command`; `study/` uses `sequential`, `report`, `looks`, `sentences` and
`page`.
"""
