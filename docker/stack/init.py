"""Bring a new or an older stack to where Airflow can start: its database, users, pools, and the store's bucket.

Run again it changes only what is missing: a password that was changed in the UI stays as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import urlsplit

ROLES = {"admin": "Admin", "operator": "Op", "viewer": "Viewer"}
"""User -> role of the FAB auth manager; its password is in AIRFLOW_PASSWORD_<USER>."""


def migrate() -> None:
    """Make the database, or bring it to this version of Airflow and of the auth manager."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)


def ensure_users() -> None:
    """Create the users that are missing."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder  # noqa: PLC0415 - after migrate

    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for name, role in ROLES.items():
            if manager.find_user(name):
                continue
            password = os.environ[f"AIRFLOW_PASSWORD_{name.upper()}"]
            made = manager.add_user(name, name.capitalize(), "", f"{name}@localhost", manager.find_role(role), password)
            if not made:
                sys.exit(f"init: Airflow did not create the user {name}; see its messages above")
            sys.stdout.write(f"init: created user {name} ({role})\n")


def ensure_pools() -> None:
    """Give the pool `gpu` as many slots as there are GPUs; without a number given, one, and a changed one stays."""
    from airflow.models.pool import Pool  # noqa: PLC0415 - after migrate

    given = os.environ.get("MLOPS_GPUS", "")
    if not given and Pool.get_pool("gpu") is not None:
        return
    about = "Tasks that use the GPU: as many at a time as there are devices"
    Pool.create_or_update_pool("gpu", slots=int(given or 1), description=about, include_deferred=False)


def ensure_bucket() -> None:
    """Create the bucket of MLOPS_STORE unless it is there."""
    import boto3  # noqa: PLC0415 - likewise
    from botocore.exceptions import ClientError  # noqa: PLC0415 - likewise

    where = urlsplit(os.environ["MLOPS_STORE"])
    s3 = boto3.client("s3")
    try:
        s3.head_bucket(Bucket=where.netloc)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:  # noqa: PLR2004 - HTTP's
            raise
        s3.create_bucket(Bucket=where.netloc)
        sys.stdout.write(f"init: created bucket {where.netloc}\n")


def main() -> None:
    """Do all of it."""
    ensure_bucket()
    migrate()
    ensure_users()
    ensure_pools()


if __name__ == "__main__":
    main()
