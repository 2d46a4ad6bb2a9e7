"""The server's key, and the three signatures by which a node and the server know each other."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from dcops.access import serverkey
from dcops.fleet.enrol import challenge, clean, identity_document, read_public_key, verify_proof
from dcops.fleet.errors import JoinRefused
from dcops.wire.identity import (
    from_base64,
    identity_transcript,
    node_transcript,
    pin_of,
    server_transcript,
    to_base64,
)

SERVER = serverkey.ServerKey(Ed25519PrivateKey.generate())
NODE = Ed25519PrivateKey.generate()
NONCE, OTHER_NONCE = b"n" * 32, b"s" * 32


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "server-key.pem"
    first = serverkey.load(path)
    assert serverkey.load(path).public_bytes == first.public_bytes
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["server-key.pem"]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path):
    path = tmp_path / "server-key.pem"
    with ThreadPoolExecutor(16) as pool:
        keys = {key.public_bytes for key in pool.map(lambda _: serverkey.load(path), range(64))}
    assert len(keys) == 1


def test_another_kind_of_key_is_refused(tmp_path):
    path = tmp_path / "server-key.pem"
    pem = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(pem)
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        serverkey.load(path)


def test_a_damaged_key_is_never_replaced(tmp_path):
    path = tmp_path / "server-key.pem"
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="PEM"):
        serverkey.load(path)
    assert path.read_bytes() == b"damaged"


def test_the_server_id_is_the_head_of_the_pin():
    assert SERVER.pin == pin_of(SERVER.public_bytes)
    assert SERVER.server_id == SERVER.pin[:16]


def check(public_key, signature, transcript):
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, transcript)


def test_the_identity_document_is_signed_for_this_nonce_and_this_ca():
    document = identity_document(SERVER, NONCE, "CA")
    key, signature = from_base64(document.public_key), from_base64(document.signature)
    assert pin_of(key) == SERVER.pin
    check(key, signature, identity_transcript(NONCE, document.server_id, "CA"))
    for nonce, ca in ((OTHER_NONCE, "CA"), (NONCE, "other CA")):
        with pytest.raises(InvalidSignature):
            check(key, signature, identity_transcript(nonce, document.server_id, ca))


@pytest.mark.parametrize("nonce", [b"", b"n" * 31, b"n" * 33])
def test_a_nonce_of_another_length_is_refused(nonce):
    with pytest.raises(ValueError, match="32 bytes"):
        identity_document(SERVER, nonce, "")


def test_the_challenge_proves_the_server_to_this_node():
    frame = challenge(SERVER, node_nonce=NONCE, server_nonce=OTHER_NONCE, node_id="n1")
    check(
        SERVER.public_bytes,
        frame.signature,
        server_transcript(NONCE, OTHER_NONCE, SERVER.server_id, "n1"),
    )
    assert frame.nonce == OTHER_NONCE


GOOD = {
    "node_nonce": NONCE,
    "server_nonce": OTHER_NONCE,
    "server_id": SERVER.server_id,
    "node_id": "n1",
    "boot_id": "b1",
}


def proof(**change):
    return NODE.sign(node_transcript(*(GOOD | change).values()))


def verify(signature, key=None, **change):
    public = (key or NODE).public_key().public_bytes_raw()
    return verify_proof(public, signature, **GOOD | change)


def test_a_proof_counts_for_exactly_one_connection():
    assert verify(proof())
    for name, value in GOOD.items():
        other = value + (b"x" if isinstance(value, bytes) else "x")
        assert not verify(proof(), **{name: other}), name
        assert not verify(proof(**{name: other})), name


def test_a_proof_of_another_key_does_not_count():
    assert not verify(proof(), key=Ed25519PrivateKey.generate())


@given(st.binary(max_size=80))
def test_no_bytes_pass_for_a_proof(signature):
    assert not verify(signature)


@given(st.binary(max_size=40))
def test_no_bytes_break_the_check_as_a_key(key):
    assert not verify_proof(key, proof(), **GOOD)


def test_the_three_transcripts_are_never_the_same_bytes():
    """A signature asked for one purpose must not serve another."""
    same = (NONCE, OTHER_NONCE, "a", "b")
    assert server_transcript(*same) != node_transcript(*same, "")
    assert identity_transcript(NONCE, "a", "b") != server_transcript(*same)


@given(st.text() | st.binary().map(to_base64))
def test_a_public_key_is_read_or_refused(text):
    try:
        assert len(read_public_key(text)) == 32
    except JoinRefused:
        assert text != to_base64(NODE.public_key().public_bytes_raw())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(anything)
def test_whatever_is_said_is_cleaned_for_good(value):
    once = clean(value)
    assert clean(once) == once
    assert "\0" not in repr(once) or "\\x00" not in repr(once)


def test_cleaning_keeps_what_is_fine():
    fine = {"a": 1, "b": 1.5, "c": [True, None, "x"], "d": {"e": "f"}}
    assert clean(fine) == fine
