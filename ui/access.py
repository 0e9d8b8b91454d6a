"""Who may see the app: this machine alone, or people with a password, or people whom an OAuth provider knows.

Panel's own means do it; a login page that loads nothing from another host, a password compared in constant time and few
attempts a minute are added, and what `oauth` says.
"""

import hmac
import ipaddress
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import panel as pn
from panel.auth import BasicAuthProvider, BasicLoginHandler, _validate_next_url
from tornado.web import RequestHandler

from ..errors import InvalidOption
from .guarded import Guarded
from .modules import STATIC
from .oauth import PROVIDERS, OAuth, forget
from .page import THEME_CSS, css

ATTEMPTS, ATTEMPTS_SECONDS = 5, 60.0
"""Wrong passwords that are heard from one address in so many seconds."""

LEAST_PASSWORD = 8

TENANTS = {"auth0": "subdomain", "okta": "url", "azure": "tenant", "azurev2": "tenant"}
"""What says whose account at a provider it is; without it Panel would ask somebody else's who people are."""


@dataclass(frozen=True)
class Access:
    """How people come in. `allowed_users` are names or mail addresses, `@example.org` for all of a domain, `*` for all that the
    provider knows; `origins` are hosts by which a proxy is reached, as `app.example.org`."""

    password: str | None = None
    oauth_provider: str | None = None
    allowed_users: Sequence[str] = ()
    origins: Sequence[str] = ()
    insecure: bool = False

    def check(self, address: str) -> None:
        """Raises InvalidOption where other machines would be let in without a word, or nobody could come in."""
        if self.password is not None and len(self.password) < LEAST_PASSWORD:
            raise InvalidOption("password", "…", f"give {LEAST_PASSWORD} characters or more")
        if self.password is not None and self.oauth_provider:
            raise InvalidOption("oauth_provider", self.oauth_provider, "choose it or a password")
        if self.oauth_provider:
            if self.oauth_provider not in PROVIDERS:
                raise InvalidOption("oauth_provider", self.oauth_provider, f"choose one of {', '.join(PROVIDERS)}")
            if not self.allowed_users:
                wanted = "say who may come in, with --allow-user (a name, a mail address, @example.org, or '*' for all)"
                raise InvalidOption("oauth_provider", self.oauth_provider, wanted)
            if missing := [name for name in needed(self.oauth_provider) if not os.environ.get(name)]:
                raise InvalidOption("oauth_provider", self.oauth_provider, f"set {' and '.join(missing)}")
            if (name := TENANTS.get(self.oauth_provider)) and not _is_set(name):
                example = f"PANEL_OAUTH_EXTRA_PARAMS=\"{{'{name}': '…'}}\""
                raise InvalidOption(
                    "oauth_provider", self.oauth_provider, f"say whose it is: set {example} (docs/app.md)"
                )
        if not (is_loopback(address) or self.password is not None or self.oauth_provider or self.insecure):
            wanted = (
                "other machines could reach it, and nobody would be asked who they are; give --password-file or "
                "--oauth-provider (docs/app.md), or --insecure where the network itself is trusted"
            )
            raise InvalidOption("address", address, wanted)

    def options(self) -> dict[str, Any]:
        """What Panel's server is given."""
        if self.password is None and not self.oauth_provider:
            return {}
        given: dict[str, Any] = {"cookie_secret": os.environ.get("PANEL_COOKIE_SECRET") or secrets.token_urlsafe(32)}
        if self.oauth_provider:
            return given | {"auth_provider": OAuth(self.oauth_provider, self.allowed_users)}
        return given | {"auth_provider": _Password(str(self.password))}


def needed(oauth_provider: str) -> list[str]:
    """The variables of the environment without which a provider cannot be asked."""
    names = ["PANEL_OAUTH_KEY"]
    if oauth_provider != "auth_code":  # which proves itself by a challenge (PKCE)
        names.append("PANEL_OAUTH_SECRET")
    if oauth_provider in ("auth_code", "generic"):
        names += ["PANEL_OAUTH_AUTHORIZE_URL", "PANEL_OAUTH_TOKEN_URL"]
    return names


def _is_set(tenant: str) -> bool:
    return bool(pn.config.oauth_extra_params.get(tenant) or (tenant == "tenant" and os.environ.get("AAD_TENANT_ID")))


def password_from(path: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The first line of a file, or ACTLAKE_PASSWORD, or None. Raises InvalidOption for a file without one."""
    if path is None:
        return environment.get("ACTLAKE_PASSWORD") or None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption("password_file", os.fspath(path), f"it cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise InvalidOption("password_file", os.fspath(path), "its first line is the password, and it is empty")
    return lines[0]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


class Attempts:
    """Wrong passwords of late, by who gave them."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def are_too_many(self, who: str) -> bool:
        return len(self._recent(who)) >= ATTEMPTS

    def add(self, who: str) -> None:
        self._recent(who).append(time.monotonic())

    def _recent(self, who: str) -> deque[float]:
        oldest = time.monotonic() - ATTEMPTS_SECONDS
        for name in [name for name, times in self._times.items() if times and times[-1] < oldest]:
            del self._times[name]
        times = self._times.setdefault(who, deque(maxlen=ATTEMPTS))
        while times and times[0] < oldest:
            times.popleft()
        return times


class _Password(BasicAuthProvider):
    """One password for all who come in."""

    def __init__(self, password: str) -> None:
        self._handler = type("Login", (_Login,), {"password": password, "attempts": Attempts()})
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def login_handler(self) -> type[RequestHandler]:
        return self._handler

    @property
    def logout_handler(self) -> type[RequestHandler]:
        return _Logout


class _Login(Guarded, BasicLoginHandler):
    password: str
    attempts: Attempts

    def get(self) -> None:
        if following := _validate_next_url(self.get_argument("next", None)):
            self.set_cookie("next_url", following)
        self._ask("")

    def post(self) -> None:
        who = str(self.request.remote_ip)
        if self.attempts.are_too_many(who):
            self.set_status(429)
            self._ask("Too many attempts; wait a minute.")
        elif hmac.compare_digest(self.get_argument("password", "").encode(), self.password.encode()):
            self.set_secure_cookie("user", "user", expires_days=1)
            self.redirect(_validate_next_url(self.get_cookie("next_url")) or "./")
        else:
            self.attempts.add(who)
            self.set_status(403)
            self._ask("That is not the password.")

    def _ask(self, problem: str) -> None:
        self.set_header("Cache-Control", "no-store")
        said = f'<p class="problem" role="alert">{problem}</p>' if problem else ""
        self.write(css(STATIC / "login.html").replace("/* theme */", css(THEME_CSS)).replace("<!-- problem -->", said))


class _Logout(Guarded):
    def get(self) -> None:
        forget(self)
        self.redirect("./login")
