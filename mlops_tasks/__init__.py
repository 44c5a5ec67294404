"""The whole machine-learning lifecycle on Airflow: every task's logic, importable without Airflow.

The flow (`pipeline.py` has it as a table)::

    one window    collect -> validate_raw -> preprocess -> validate
    many windows  snapshot -> train -> evaluate -> deploy
    each window   monitor -> a new run of training, never an edge back
    a process     serve

Where do I go to ...?

- see what a stage consumes and produces: `pipeline.py`; what it hands on: `artifacts.py`
- add a knob: `specs.py`, one type a stage; its description is its documentation
- change what a stage computes: `core/`, which knows no clients; `stages/` only loads, calls and saves
- talk to something new: a protocol in `ports.py`, an implementation in `adapters/`, a line in `wiring.py`
- see why something ran or did not: `runner/depends.py` says what each result depends on, `caching.py` compares
- change what a plan, an explanation or a backtest says: `runner/planning/`, `runner/explaining.py`, `core/walk_forward/`
- change what requests are answered with: `serving/`
- change a message about a mistake in a pipeline's folder: `problems.py`; exit codes: `errors.py`
- add a command: `cli/parser.py` and a module of its name beside it

Imports point down: cli, runner, caching, wiring, stages and serving, core and adapters, pipeline, loading, problems,
ports and specs, artifacts, errors.
"""
