"""`make demo`: a real Airflow on this machine runs the whole loop on New York flights, and stays up.

Where do I go to ...?
- see what the demo does, step by step: `loop.py`
- change how Airflow is started (settings, ports, password): `airflow_process.py`
- start or end a background process: `processes.py`; which ones there are: `services.py`
- talk to Airflow: `rest.py`; show its progress: `following.py`
- change what is printed at the end: `summary.py`
"""

from __future__ import annotations


class DemoError(Exception):
    """Something the demo needs did not work; its message says what, and where to look."""
