"""What is measured beside the tests: speed, cost and the errors of verdicts, for pages of results/.

- `throughput`: our speed beside the usual loop's; writes results/throughput.md and .json.
- `throughput_report`: the text of that page.
- `reference`: the usual loop.
- `growth`: how the cost of an epoch grows; writes results/growth.md, .json and .png.
- `calibration`: how often a verdict is wrong; writes results/calibration.md.
- `calibration_report`: the text of that page.
- `scale`: how long `compare` takes with many runs; prints the first part of results/scale.md.
- `load`: many clients at one server; prints the second part of results/scale.md.
- `recipe`: what each ingredient of a recipe brings; prints tables of results/best.md.
- `lost_digits`: why CoordConv loses digits: networks and trainings for results/translated.md.
- `lost_digits_report`: prints tables of results/translated.md; writes results/lost_digits.png.
- `commit`: the commit that a benchmark measures, for its report.
"""
