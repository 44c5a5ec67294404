"""Adapters: the ports, implemented on local disk, Spark, MLflow and the sources."""
