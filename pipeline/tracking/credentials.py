"""Keep users, passwords and tokens out of what is shown: of the store's address and of any text."""

import os
import re

import mlflow
from mlflow.store.db.db_types import DATABASE_ENGINES


def without_credentials(text: str) -> str:
    """A text without the users, passwords and queries of the addresses in it.

    In an address, user and password stand before the last `@`; a password may contain characters
    such as `@` and `/` that its owner has not encoded. A query may hold a token. The password and
    the token that MLflow reads from the environment are replaced by `***`, except where the
    store's address happens to contain such a word: links need the address.
    """
    uri = mlflow.get_tracking_uri()
    address = _public_address(uri)
    text = address.join(map(_without_secrets, text.replace(uri, address).split(address)))
    query = uri.partition("?")[2]
    if query:  # error messages also have it in addresses without a host
        text = text.replace(f"?{query}", "")
    return re.sub(r"[\w+.-]+://\S+", lambda address: _public_address(address[0]), text)


def has_unencoded_credentials(uri: str) -> bool:
    """Whether an @ stands behind what a client takes for the user and the password.

    The client would then take a part of the password for the host or the path, and errors show it.
    """
    scheme, _, rest = uri.partition("://")
    if scheme.lower() in ("http", "https"):
        return "@" in re.sub(r"^[^/?#]*", "", rest)  # they end with the host, before the path
    if scheme.partition("+")[0] in DATABASE_ENGINES and not scheme.startswith("sqlite"):
        # as SQLAlchemy reads them; the values of a query may hold an @
        place, _, query = re.sub(r"^[^:/]*(:[^@]*)?@", "", rest).partition("?")
        return "@" in place or "@" in query.partition("=")[0]
    return False


def _without_secrets(text: str) -> str:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        secret = os.environ.get(name, "").strip()
        if secret:
            # an error may show it as Python writes it, with escape sequences
            for form in (secret, repr(secret)[1:-1], ascii(secret)[1:-1]):
                text = text.replace(form, "***")
    return text


def _public_address(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    if not rest.startswith("/"):  # the path of a file has no user, and may contain an @
        rest = rest.rpartition("@")[2]
    place, hash_sign, fragment = rest.partition("#")
    return f"{scheme}://{place.partition('?')[0]}{hash_sign}{fragment}"
