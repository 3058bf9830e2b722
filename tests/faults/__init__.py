"""What a study promises, whatever happens to it: `make faults` tries each fault many times.

- `trial`: one study in a folder of its own, and the losses by the promises.
- `faults`: the table of faults; a further one is a function and a line of the table.
- `__main__`: tries them, and writes results/faults.md.
"""
