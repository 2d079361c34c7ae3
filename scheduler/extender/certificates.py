"""The certificate of the verbs: read again when its files change, for connections from then on."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from cryptography import x509

from scheduler.controller.settings import ServeSettings

log = logging.getLogger("muster.certificates")
LOOK_S = 10.0


class Certificates:
    """The certificate of the verbs' socket, and the authority that clients need.

    Each handshake uses the current context, so that a removed authority is no longer trusted; open
    connections stay.
    """

    def __init__(self, settings: ServeSettings) -> None:
        """Read the files.

        Raises:
            ValueError: one cannot be read, or the key does not belong to the certificate.
        """
        self._settings = settings
        self._content = self._read()
        self._current = self._context()
        #: the one that listens; it only hands over to the current one
        self.context = self._context()
        self.context.sni_callback = self._hand_over
        self.expires_unix_s = self._expiry()

    def _paths(self) -> tuple[Path, ...]:
        s = self._settings
        return tuple(Path(path) for path in (s.cert, s.key, s.client_ca) if path)

    def _read(self) -> tuple[bytes, ...]:
        try:
            return tuple(path.read_bytes() for path in self._paths())
        except OSError as error:
            raise ValueError(f"[serve] {error.filename}: {error.strerror}") from None

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET  # or a client would come back on what held before
        context.num_tickets = 0
        s = self._settings
        try:
            context.load_cert_chain(s.cert, s.key)
            if s.client_ca:
                context.load_verify_locations(s.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            paths = ", ".join(str(path) for path in self._paths())
            raise ValueError(
                f"[serve] {paths}: {error}; are they PEM, and a matching pair?"
            ) from None
        return context

    def _hand_over(self, one: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
        one.context = self._current

    def _expiry(self) -> dict[str, float]:
        """Return when what is served ends, by the name of the setting."""
        named = {"cert": self._settings.cert, "client_ca": self._settings.client_ca}
        return {
            name: min(
                one.not_valid_after_utc.timestamp()
                for one in x509.load_pem_x509_certificates(Path(path).read_bytes())
            )
            for name, path in named.items()
            if path
        }

    def look(self) -> bool:
        """Reload changed files; True if they changed. Unusable files are logged."""
        try:
            content = self._read()
            if content == self._content:
                return False
            current, expires_unix_s = self._context(), self._expiry()
        except (ValueError, OSError) as error:
            log.error("keeping the old certificates: %s", error)
            return False
        self._content, self._current, self.expires_unix_s = content, current, expires_unix_s
        log.info("certificates reloaded")
        return True

    async def keep_looking(self) -> None:
        """Check the files at intervals, without end."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()
