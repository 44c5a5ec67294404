"""Certificates that are renewed while connections are opened, also by two files that don't fit each other for a moment."""

from __future__ import annotations

import logging
import shutil
import ssl
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.errors import SpecError
from mlops_tasks.serving.certificates import Certificates
from tests.certificates import serial_of, write_certificate

if TYPE_CHECKING:
    from pathlib import Path


def serial_given(certificates: Certificates) -> int:
    """Open a connection in memory; return the serial number of the certificate that the server showed."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return serial_of(shown)


def test_a_renewed_pair_is_taken_and_a_torn_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = write_certificate(tmp_path, 1001)
    certificates = Certificates(cert, key)
    assert serial_given(certificates) == 1001
    new = tmp_path / "new"
    new.mkdir()
    new_cert, new_key = write_certificate(new, 1002)
    shutil.copy(new_cert, cert)  # the key comes later
    for _ in range(3):
        certificates.renew()
        assert serial_given(certificates) == 1001
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "can't be used, the one before goes on" in warnings[0]
    shutil.copy(new_key, key)
    certificates.renew()
    assert serial_given(certificates) == 1002


def test_files_that_are_away_for_a_moment_change_nothing(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, 1001)
    certificates = Certificates(cert, key)
    key.unlink()
    certificates.renew()
    assert serial_given(certificates) == 1001
    write_certificate(tmp_path, 1003)
    certificates.renew()
    assert serial_given(certificates) == 1003


def test_what_is_no_pair_at_the_start_is_said(tmp_path: Path) -> None:
    cert, _ = write_certificate(tmp_path, 1)
    with pytest.raises(SpecError, match=r"are no certificate with its key"):
        Certificates(cert, cert)
    with pytest.raises(SpecError, match=r"are no certificate with its key"):
        Certificates(tmp_path / "none", cert)


def test_a_key_with_a_password_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, 1, password=b"a password")
    with pytest.raises(SpecError, match=r"the key is encrypted"):
        Certificates(cert, key)


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    assert Certificates(*write_certificate(tmp_path, 1)).context.minimum_version >= ssl.TLSVersion.TLSv1_2
