"""The whole machine-learning lifecycle on Airflow: every task's logic, importable without Airflow."""
