"""Certificate and key of https, looked at before anything is started."""

import os
import re
import ssl

from ..errors import ArgumentError, first_line

_MOST = 1 << 20  # characters that are looked at


def check_pair(certfile: str | None, keyfile: str | None) -> None:
    """Check that two files belong together; without them there is nothing to check.

    Raises:
        OSError: a file is not there, or cannot be read.
        ArgumentError: they are no certificate and its key, or the key asks for a pass phrase.
    """
    if certfile is None or keyfile is None:
        return
    missing = next((file for file in (certfile, keyfile) if not os.path.isfile(file)), None)
    if missing is not None:
        raise OSError(f"There is no file {missing!r}, for https.")
    _check_holds(certfile, "CERTIFICATE", "--ssl-certfile")
    _check_holds(keyfile, "PRIVATE KEY", "--ssl-keyfile")

    def refuse() -> str:  # else OpenSSL asks for it on the terminal, and waits
        raise ArgumentError(
            f"--ssl-keyfile {keyfile!r} is protected by a pass phrase. Give one without: "
            "openssl pkey -in FILE -out NEW."
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, refuse)
    except ssl.SSLError as error:
        raise ArgumentError(
            f"--ssl-certfile {certfile!r} and --ssl-keyfile {keyfile!r} are no pair of "
            f"certificate and key in PEM ({error.reason or first_line(error)})."
        ) from error


def _check_holds(file: str, kind: str, flag: str) -> None:
    with open(file, encoding="latin-1") as lines:
        held = re.findall(r"^-----BEGIN ([A-Z0-9 ]+)-----", lines.read(_MOST), re.MULTILINE)
    if not any(each.endswith(kind) for each in held):
        found = " and ".join(dict.fromkeys(held)).lower() or "nothing in PEM"
        raise ArgumentError(f"{flag} {file!r} holds {found}; expected a {kind.lower()} in PEM.")
