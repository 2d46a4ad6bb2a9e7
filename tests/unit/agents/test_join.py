"""Joining: the secret is shown to the server that made the token, over a channel that is its own, and to nobody else."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.adapters.keys import IdentityError, load_identity, load_key
from agents.join import JoinError, join
from tests.fakes.join_server import JoinServer, certificate, serving


def attempt(server, state_dir, *, token=None, url=None, **options):
    text = str(token or server.token)
    return join(url or server.url, text, state_dir, hostname="host-1", **options)


def never_heard_the_secret(server):
    return not any(b"the-secret" in heard for heard in server.heard)


def test_a_node_joins_and_keeps_who_it_is(tmp_path):
    with serving(JoinServer()) as server:
        answer = attempt(server, tmp_path / "state")
    assert (answer.node_name, answer.state) == ("n1", "approved")
    identity = load_identity(tmp_path / "state")
    assert (identity.node_id, identity.server) == ("id-1", server.url)
    assert load_key(tmp_path / "state").public_key() is not None
    files = sorted((tmp_path / "state").iterdir())
    assert [file.name for file in files] == ["identity.json", "key.pem"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_node_joins_over_tls_with_the_servers_own_ca(tmp_path):
    ca_pem, context = certificate(tmp_path, "server")
    with serving(JoinServer(ca_pem=ca_pem), context) as server:
        attempt(server, tmp_path / "state")
    assert load_identity(tmp_path / "state").ca_pem == ca_pem


def test_a_server_with_another_key_never_sees_the_secret(tmp_path):
    token = JoinServer().token
    with serving(JoinServer()) as server, pytest.raises(JoinError, match="not the one that made"):
        attempt(server, tmp_path, token=token)
    assert server.heard
    assert never_heard_the_secret(server)


def test_a_changed_ca_is_noticed_and_the_secret_kept(tmp_path):
    with (
        serving(JoinServer(ca_pem="good", tampered_ca="evil")) as server,
        pytest.raises(JoinError, match="cannot prove its identity"),
    ):
        attempt(server, tmp_path)
    assert never_heard_the_secret(server)


def test_a_relay_of_the_identity_with_another_certificate_never_sees_the_secret(tmp_path):
    """A man in the middle can pass the signed identity on, but has no certificate of the CA in it."""
    ca_pem, _ = certificate(tmp_path, "server")
    _, evil = certificate(tmp_path, "evil")
    with (
        serving(JoinServer(ca_pem=ca_pem), evil) as server,
        pytest.raises(JoinError, match=r"was not accepted .* the token was not sent"),
    ):
        attempt(server, tmp_path / "state")
    assert never_heard_the_secret(server)


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"days": -1}, "clock"), ({"address": "127.0.0.9"}, "host name")],
)
def test_a_certificate_that_does_not_fit_names_the_likely_cause(options, advice, tmp_path):
    ca_pem, context = certificate(tmp_path, "server", **options)
    with (
        serving(JoinServer(ca_pem=ca_pem), context) as server,
        pytest.raises(JoinError, match=advice),
    ):
        attempt(server, tmp_path / "state")
    assert never_heard_the_secret(server)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://dcops.example.org", "unprotected"),
        ("ftp://localhost", "not a server address"),
        ("localhost:8000", "not a server address"),
        ("https://", "not a server address"),
        ("https://user:password@host", "not a server address"),
        ("https://host/path", "more than a host"),
        ("https://host:port", "not a server address"),
        ("http://127.0.0.1:9", "No dcops server answers"),
    ],
)
def test_an_address_that_cannot_work_says_why(url, message, tmp_path):
    with pytest.raises(JoinError, match=message):
        attempt(JoinServer(), tmp_path, url=url)


@pytest.mark.parametrize("token", ["", "nonsense", "dcops1.short.a.b", "dcops1.." + "." * 3])
def test_a_token_that_is_none_says_so(token, tmp_path):
    with pytest.raises(JoinError, match="token"):
        join("http://localhost:1", token, tmp_path, hostname="h")


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (
            403,
            {"code": "token", "message": "This join token is used."},
            "This join token is used.",
        ),
        (403, ["refusal", "token", "Expired."], "Expired."),
        (503, b"", "busy"),
        (500, b"<html>", "status 500"),
        (302, b"", "status 302"),
        (200, b"<html>", "does not answer like a dcops server"),
    ],
)
def test_a_refusal_is_passed_on_in_a_sentence(status, answer, message, tmp_path):
    server = JoinServer(status=status, answer=answer)
    with serving(server), pytest.raises(JoinError, match=message):
        attempt(server, tmp_path)
    assert load_identity(tmp_path) is None


def test_something_that_is_no_dcops_server_is_said_to_be_none(tmp_path):
    server = JoinServer(identity_status=404)
    with serving(server), pytest.raises(JoinError, match="Check the address"):
        attempt(server, tmp_path)
    assert never_heard_the_secret(server)


def test_the_same_token_again_offers_the_same_key(tmp_path):
    """The first answer may have been lost: the server then knows the key and says the same again."""
    server = JoinServer(status=500, answer=b"")
    with serving(server):
        for _ in range(2):
            with pytest.raises(JoinError):
                attempt(server, tmp_path)
        other = dataclasses.replace(server.token, token_id="/etc/other")
        with pytest.raises(JoinError):
            attempt(server, tmp_path, token=other)
    first, second, third = (heard for heard in server.heard if b"public_key" in heard)
    assert first == second
    assert first.replace(b"token-id", b"/etc/other") != third
    assert len(list(tmp_path.iterdir())) == 2


def test_a_machine_that_has_joined_does_not_join_again_by_accident(tmp_path):
    with serving(JoinServer()) as server:
        attempt(server, tmp_path)
        key = (tmp_path / "key.pem").read_bytes()
        with pytest.raises(JoinError, match="already node n1"):
            attempt(server, tmp_path)
        attempt(server, tmp_path, replace=True)
    assert (tmp_path / "key.pem").read_bytes() != key


def test_a_key_that_others_can_read_is_refused(tmp_path):
    with serving(JoinServer()) as server:
        attempt(server, tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"not a key"])
def test_a_damaged_key_or_identity_says_what_to_do(content, tmp_path):
    with serving(JoinServer()) as server:
        attempt(server, tmp_path)
    for name, load in (("key.pem", load_key), ("identity.json", load_identity)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IdentityError, match=r"[Jj]oin again"):
            load(tmp_path)


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JoinError, match="state folder"):
        attempt(JoinServer(), tmp_path / "file" / "state", url="http://localhost:1")


def test_the_key_is_an_ed25519_key(tmp_path):
    with serving(JoinServer()) as server:
        attempt(server, tmp_path)
    assert isinstance(load_key(tmp_path), Ed25519PrivateKey)
