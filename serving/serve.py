"""`make serve`: imports the champion into BentoML, then becomes the server of exactly that version."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from serving.bundle import REFUSALS, ROOT, SERVICE, import_champion
from serving.corrections import corrections_url
from serving.database import BadUrl, open_engine
from serving.settings import BadSetting, check

DEFAULT_PORT = "3000"
DEFAULT_HOST = "127.0.0.1"
# BentoML's own default is a day; a request in flight ends within the service's timeout or is cut here.
GRACE_SECONDS = 15


class CannotListen(Exception):
    """The address is not one to listen on; the message says why, and the remedy."""


def port_number(text: str) -> int:
    """A TCP port, 1 to 65535.

    Raises:
        ArgumentTypeError: it is not one; argparse prints the message and exits with 2.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a whole number from 1 to 65535")
    return int(text)


def listening_address(host: str, port: int) -> str:
    """The IP address that a host name stands for (BentoML takes no names), once it is known to be free.

    Raises:
        CannotListen: no such host here, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server will: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        remedy = "choose another port (make serve PORT=...) or another host (IMMNEWS_HOST)"
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}; {remedy}") from error
    return str(address[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Does not return where all is well; otherwise 2, with the reason on the error stream."""
    parser = argparse.ArgumentParser(prog="serving.serve", description=__doc__)
    parser.add_argument("--port", type=port_number, default=os.environ.get("PORT") or DEFAULT_PORT)
    port = parser.parse_args(arguments).port
    try:
        host = listening_address(os.environ.get("IMMNEWS_HOST") or DEFAULT_HOST, port)
        open_engine(corrections_url())
        check()
        model = import_champion()
    except (CannotListen, BadUrl, BadSetting, *REFUSALS) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"serving {model.tag} on {host}, port {port}", flush=True)
    os.chdir(ROOT)
    # The tag, not the alias: a champion that moves does not change a server that runs.
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--arg", f"model={model.tag}"]
    command += ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(GRACE_SECONDS)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
