"""Certificate and key of https, looked at before anything is started."""

import os
import ssl

from ..errors import ArgumentError, first_line


def check_pair(certfile: str | None, keyfile: str | None) -> None:
    """Check that two files belong together; without them there is nothing to check.

    Raises:
        OSError: a file is not there, or cannot be read.
        ArgumentError: they are no certificate and its key.
    """
    if certfile is None or keyfile is None:
        return
    missing = next((file for file in (certfile, keyfile) if not os.path.isfile(file)), None)
    if missing is not None:
        raise OSError(f"There is no file {missing!r}, for https.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except ssl.SSLError as error:
        raise ArgumentError(
            f"--ssl-certfile {certfile!r} and --ssl-keyfile {keyfile!r} are no pair of "
            f"certificate and key in PEM ({error.reason or first_line(error)})."
        ) from error
