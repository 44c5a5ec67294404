"""Other model servers, each in an environment of its own: what a user of theirs would write to serve our model.

A folder holds `requirements.in`, the versions that are compared, and `serve.py`, the model behind that server's
recommended API. `mlflow models serve` needs neither: it serves the model as it is logged, from this project's environment.
"""
