"""An OAuth 2 and OpenID Connect provider: prints its port, reads the addresses that it may send people to, and answers for ever.

As strict as a real one: a code counts once, for the client, secret (or challenge) and address that asked for it. Two buttons
sign in as somebody or refuse. With the scope `openid` the token comes with an id_token, without it names come from /userinfo.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

KEY, SECRET = "actlake", "a secret of two"
redirect_uris: set[str] = set()
codes: dict[str, dict[str, str]] = {}
tokens: dict[str, str] = {}

PAGE = """<!doctype html><title>provider</title><form action="/decide">{hidden}
<label>who <input name="who" value="ann@example.org"></label><button>Sign in</button>
<button name="refuse" value="1">Refuse</button></form>"""


class Provider(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/authorize":
            if asked.get("redirect_uri") not in redirect_uris or asked.get("client_id") != KEY:
                self._answer(400, "text/plain", f"not a client of ours: {asked}")
                return
            hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in asked.items())
            self._answer(200, "text/html", PAGE.replace("{hidden}", hidden))
        elif url.path == "/decide":
            back = {"state": asked["state"]}
            if "refuse" in asked:
                back |= {"error": "access_denied", "error_description": "<b>No</b>"}
            else:
                back["code"] = secrets.token_hex(8)
                codes[back["code"]] = asked
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri']}?{urlencode(back)}")
            self.end_headers()
        elif url.path == "/userinfo":
            who = tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
            self._json(200 if who else 401, {"email": who} if who else {"error": "invalid_token"})
        else:
            self._answer(404, "text/plain", "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        said = {name: values[0] for name, values in parse_qs(body).items()}
        asked = codes.pop(said.get("code", ""), None)
        if asked is None or said["redirect_uri"] != asked["redirect_uri"] or not proves_itself(said, asked):
            self._json(400, {"error": "invalid_grant"})
            return
        token = secrets.token_hex(8)
        tokens[token] = asked["who"]
        given = {"access_token": token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r"}
        if "openid" in asked.get("scope", "").split():
            given["id_token"] = id_token({"iss": "provider", "aud": KEY, "email": asked["who"]})
        self._json(200, given)

    def _json(self, status: int, value: object) -> None:
        self._answer(status, "application/json", json.dumps(value))

    def _answer(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *said: object) -> None:
        """Nothing."""


def proves_itself(said: dict[str, str], asked: dict[str, str]) -> bool:
    if challenge := asked.get("code_challenge"):
        return challenge == encoded(hashlib.sha256(said.get("code_verifier", "").encode()).digest())
    return said.get("client_secret") == SECRET


def id_token(claims: dict[str, str]) -> str:
    """A signed token (JWS, HS256)."""
    signed = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{encoded(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    print(server.server_port, flush=True)
    redirect_uris.update(line.strip() for line in sys.stdin)
    server.serve_forever()
