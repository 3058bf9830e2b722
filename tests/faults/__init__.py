"""What a training and a study promise, whatever happens: `make faults` tries each fault many times.

- `stores`: the two stores: a SQLite file, and a server on PostgreSQL.
- `disk`: a small disk, which can be filled.
- `trial`: one command in a folder of its own.
- `promises`: what must hold after a fault, and what was lost.
- `faults`: the table of faults; a further one is a function and a line of the table.
- `report`: what was found so far, in results/faults.json and results/faults.md.
- `__main__`: tries the faults.
"""
