"""API keys in a file: one a line, read again when the file changes."""

import hashlib
import hmac
import logging
from pathlib import Path
from typing import Final

from pointsman.errors import OptionsError
from pointsman.wording import as_text

_LEAST: Final = 16  # characters of a key
_MAKE_ONE: Final = "; `openssl rand -hex 32 > FILE` makes one"
_LOG: Final = logging.getLogger("pointsman.serving")


class ApiKeys:
    """The keys that a service takes.

    A key is compared with every one that is known, in a time that does not depend on how much of it is right. A
    file that has become unreadable or wrong is reported, and the keys that were known stay.
    """

    def __init__(self, path: Path) -> None:
        """Read a file: a key a line; what follows `#` and empty lines are passed over.

        Raises:
            OptionsError: It cannot be read, has no key, or one that is too short.
        """
        self._path = path
        self._stamp = self._stamped()
        self._digests = self._read()

    def __contains__(self, key: str) -> bool:
        """Whether a key is among them."""
        self._reload()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = 0
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return bool(found)

    def _reload(self) -> None:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._digests = self._read()
        except OptionsError as error:
            _LOG.error("api keys are as they were", extra={"reason": str(error)})
        else:
            _LOG.info("api keys read again", extra={"keys": len(self._digests)})

    def _stamped(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise OptionsError(
                f"API keys {as_text(self._path)} cannot be read ({error.strerror}){_MAKE_ONE}"
            ) from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[bytes]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionsError(f"API keys {as_text(self._path)} cannot be read; give a text file") from error
        keys = [key for line in lines if (key := line.partition("#")[0].strip())]
        if not keys or min(map(len, keys)) < _LEAST:
            raise OptionsError(
                f"API keys {as_text(self._path)} must have one key a line, of at least {_LEAST} characters each"
                f"{_MAKE_ONE}"
            )
        return [hashlib.sha256(key.encode()).digest() for key in keys]
